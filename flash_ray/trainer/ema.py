"""The exponential moving average of the student's weights: what is judged and published."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from flash_ray.storage.manifest import FileRecord
from flash_ray.trainer.learners import shapes
from flash_ray.trainer.shares import Part, load_parts, local_fp32, save_parts

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from diffusers.models.modeling_utils import ModelMixin

FILE = "ema"


class EMA:
    """Each rank averages the fp32 weights that its optimizer owns: as sharded as ZeRO shards them.

    Args:
        decay: per iteration; 0 keeps the newest weights.
    """

    def __init__(self, engine: "DeepSpeedEngine", decay: float) -> None:
        self._engine, self._decay = engine, decay
        self._shares = {name: values.clone() for name, _, values in local_fp32(engine)}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the student's weights of now into the average."""
        for name, _, values in local_fp32(self._engine):
            self._shares[name].lerp_(values, 1 - self._decay)

    def save(self, folder: Path) -> dict[str, FileRecord]:
        """Writes this rank's shares, and where in their parameters they begin."""
        return save_parts(folder, FILE, self._parts())

    def load(self, folder: Path) -> None:
        """Takes this rank's shares from the files that ranks wrote, however many there were."""
        load_parts(folder, FILE, self._parts())

    def _parts(self) -> dict[str, Part]:
        starts = ((name, start) for name, start, _ in local_fp32(self._engine))
        return {f"{FILE}/{name}": (start, self._shares[name]) for name, start in starts}

    @contextmanager
    def averaged(self) -> Iterator["ModelMixin | None"]:
        """`gather`, for a block."""
        yield self.gather()

    @torch.no_grad()
    def gather(self) -> "ModelMixin | None":
        """On rank 0 a frozen transformer with the averaged weights, else None; a collective."""
        engine = self._engine
        starts = {name: start for name, start, _ in local_fp32(engine)}
        full = {}
        for name, shape in shapes(engine.module).items():
            whole = torch.zeros(shape.numel(), device=engine.device)
            if name in starts:
                share = self._shares[name]
                whole[starts[name] : starts[name] + share.numel()] = share
            dist.reduce(whole, dst=0)  # of each element, one rank has more than zero
            if dist.get_rank() == 0:
                # On the host, in the weights' precision: beside the engines there is room for one.
                full[name] = whole.view(shape).to("cpu", engine.module.dtype)
        if dist.get_rank() != 0:
            return None
        from accelerate import init_empty_weights

        with init_empty_weights():  # else weights are drawn that nobody needs
            transformer = type(engine.module).from_config(engine.module.config)
        transformer.load_state_dict(full, assign=True)
        transformer.to(engine.device)
        transformer.requires_grad_(False)
        return transformer.eval()
