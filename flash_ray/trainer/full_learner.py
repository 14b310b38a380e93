"""Trains all weights of a transformer, with DeepSpeed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flash_ray.storage.manifest import FileRecord
from flash_ray.trainer.ema import EMA
from flash_ray.trainer.shares import load_engine, save_engine

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class FullLearner:
    """A transformer under its DeepSpeed engine, as a `Learner`."""

    def __init__(self, engine: "DeepSpeedEngine") -> None:
        self.engine = engine
        self.module: nn.Module = engine.module

    @property
    def device(self) -> torch.device:
        device: torch.device = self.engine.device
        return device

    @property
    def grad_norm(self) -> float:
        return float(self.engine.get_global_grad_norm() or 0.0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        self.engine.backward(loss)

    def step(self) -> None:
        self.engine.step()

    def average(self, decay: float) -> EMA:
        return EMA(self.engine, decay)

    def save(self, folder: Path) -> dict[str, FileRecord]:
        return save_engine(self.engine, folder)

    def load(self, folder: Path) -> None:
        load_engine(self.engine, folder)
