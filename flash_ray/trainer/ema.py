"""The exponential moving average of the student's weights: what is judged and published."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from flash_ray.trainer.learners import local_fp32, shapes

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from diffusers.models.modeling_utils import ModelMixin


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

    def save(self, folder: Path) -> None:
        """Writes this rank's shares, and where in their parameters they begin."""
        starts = {name: start for name, start, _ in local_fp32(self._engine)}
        torch.save({"starts": starts, "values": self._shares}, folder / _file(dist.get_rank()))

    def load(self, folder: Path) -> None:
        """Takes this rank's shares from the files that ranks wrote, however many there were."""
        files = sorted(folder.glob("ema-*.pt"))
        if len(files) == dist.get_world_size():
            files = [folder / _file(dist.get_rank())]
        missing = {name: values.numel() for name, values in self._shares.items()}
        for path in files:
            saved = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
            for name, start, values in local_fp32(self._engine):
                if name in saved["starts"]:
                    share, offset = saved["values"][name], saved["starts"][name] - start
                    begin, end = max(0, offset), min(values.numel(), offset + share.numel())
                    if begin < end:
                        self._shares[name][begin:end] = share[begin - offset : end - offset]
                        missing[name] -= end - begin
        if any(missing.values()):
            raise RuntimeError(f"the averaged weights lack {sum(missing.values())} values")

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
        for name, shape in shapes(engine).items():
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


def _file(rank: int) -> str:
    return f"ema-{rank:05d}.pt"
