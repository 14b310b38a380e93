"""How large the student's samples are, relative to the base's: where a run is lost, this shows."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from flash_ray.data.stream import Stream
from flash_ray.methods import Method
from flash_ray.models.base import Model
from flash_ray.models.sampling import guided
from flash_ray.trainer import rng
from flash_ray.trainer.metrics import sum_over_workers

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class SampleScale:
    """Compares standard deviations by channel with those of the untrained student, the base.

    Args:
        base_KC: standard deviations of the base's samples at each rung.
    """

    def __init__(self, base_KC: Tensor) -> None:
        self._base_KC = base_KC

    def __call__(self, x_BNC: Tensor, rung: int) -> dict[str, Tensor]:
        """Mean ratios over the channels: `spread` to the base's samples at this rung, `excess` to
        the base's finished samples."""
        std_C = _std(x_BNC.detach())
        return {
            "spread": (std_C / self._base_KC[rung]).mean(),
            "excess": (std_C / self._base_KC[-1]).mean(),
        }


@torch.no_grad()
def measure_base(
    method: Method, model: Model, student: "DeepSpeedEngine", stream: Stream, seed: int
) -> SampleScale:
    """Samples the student at every rung before it is trained; a collective."""
    rungs, scales = range(len(method.sigmas)), []
    for n in range(stream.passes):
        batch = stream[n]
        noise_BNC = rng.noise(batch, model.latent_channels, seed, "scale").to(student.device)
        velocity = guided(model, student, batch.conditions)
        std_KC = torch.stack([_std(method.student_x(velocity, noise_BNC, rung)) for rung in rungs])
        scales.append(std_KC * batch.weight)
    base_KC = torch.stack(scales).mean(0)
    return SampleScale(sum_over_workers(base_KC) / dist.get_world_size())


def _std(x_BNC: Tensor) -> Tensor:
    return x_BNC.float().std(dim=(0, 1)).clamp_min(1e-6)
