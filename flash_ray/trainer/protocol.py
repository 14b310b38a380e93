"""What is trained, whatever it is: all weights of a transformer, or a LoRA on a shared base."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flash_ray.storage.manifest import FileRecord


class Average(Protocol):
    """The exponential moving average of a network: what is judged and published."""

    def update(self) -> None:
        """Takes the weights of now into the average."""

    def averaged(self) -> AbstractContextManager[nn.Module | None]:
        """A frozen transformer with the averaged weights, for the block; a collective. On other
        ranks than 0 None, unless every pass through it is a collective."""

    def save(self, folder: Path) -> dict[str, FileRecord]:
        """Writes what a resumed run needs; workers may share the folder. Returns what this worker
        wrote, by path in the folder."""

    def load(self, folder: Path) -> None:
        """Takes up what any number of workers saved."""


class Learner(Protocol):
    """A network and its optimizer; it is called like the transformer, on every worker alike.

    The gradient of a step is the mean over its passes and over the workers.
    """

    module: nn.Module

    @property
    def device(self) -> torch.device:
        """The device of the weights."""

    @property
    def grad_norm(self) -> Tensor | float:
        """The gradient's norm of the last step, before it was clipped."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the network says."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a pass's scalar loss."""

    def step(self) -> None:
        """Ends a pass; after the last one of a step, updates the weights. A collective."""

    def average(self, decay: float) -> Average:
        """A new average, which begins at the weights of now; a decay of 0 keeps the newest."""

    def save(self, folder: Path) -> dict[str, FileRecord]:
        """Writes what a resumed run needs; a collective. Workers may share the folder. Returns what
        this worker wrote, by path in the folder."""

    def load(self, folder: Path) -> None:
        """Takes up what any number of workers saved; a collective."""
