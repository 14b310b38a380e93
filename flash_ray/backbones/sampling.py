"""Few-step and many-step sampling: schedules of sigmas and the Euler sampler."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flash_ray.backbones.base import Backbone, Conditioned, Prefix
from flash_ray.backbones.guidance import guided_velocity

# (z_BNC, t_B) -> v_BNC
VelocityFn = Callable[[Tensor, Tensor], Tensor]


def shift_time(t: float | Tensor, shift: float) -> float | Tensor:
    """Moves times in [0, 1] towards noise (shift > 1): shift*t / (1 + (shift-1)*t).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2.
    """
    return shift * t / (1 + (shift - 1) * t)


def schedule(steps: int, shift: float = 1.0) -> list[float]:
    """Sigmas of a sampler, descending from 1, without the terminal 0."""
    return [shift_time((steps - i) / steps, shift) for i in range(steps)]


def euler(velocity: VelocityFn, z_BNC: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Integrates dz/dt = v from sigmas[0] down to sigmas[-1]; one sigma alone returns z_BNC."""
    for sigma, target in zip(sigmas[:-1], sigmas[1:], strict=True):
        t_B = torch.full((z_BNC.shape[0],), sigma, device=z_BNC.device)
        z_BNC = z_BNC + (target - sigma) * velocity(z_BNC, t_B)
    return z_BNC


def guided(
    backbone: Backbone,
    transformer: nn.Module,
    conditioned: Conditioned,
    guidance: float = 1.0,
    rescale: bool = True,
) -> VelocityFn:
    """The velocity under guidance, as a function of (z_BNC, t_B), with prefilled prefixes.

    Guidance 1.0 asks the transformer once a call, any other scale twice. The prefixes hold for as
    long as the weights do.
    """
    prefix, negative_prefix = Prefix(), Prefix()

    def velocity(z_BNC: Tensor, t_B: Tensor) -> Tensor:
        v_BNC = backbone.velocity(transformer, z_BNC, t_B, conditioned.positive, prefix)
        if guidance == 1.0:
            return v_BNC
        v_uncond = backbone.velocity(transformer, z_BNC, t_B, conditioned.negative, negative_prefix)
        return guided_velocity(v_BNC, v_uncond, guidance, rescale)

    return velocity


@torch.no_grad()
def sample(
    backbone: Backbone,
    transformer: nn.Module,
    conditioned: Conditioned,
    noise_BNC: Tensor,
    sigmas: Sequence[float],
    guidance: float = 1.0,
    rescale: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples latents x_BNC from noise_BNC ~ N(0, 1).

    Args:
        sigmas: descending in (0, 1], without the terminal 0; one Euler step each.
        guidance, rescale: see `guided`; NFE = len(sigmas), twice that under guidance.
        progress: called with (steps done, steps in all) after each step.
    """
    velocity = guided(backbone, transformer, conditioned, guidance, rescale)
    ends = [*sigmas, 0.0]
    z_BNC = noise_BNC
    for i in range(len(sigmas)):
        z_BNC = euler(velocity, z_BNC, ends[i : i + 2])
        if progress:
            progress(i + 1, len(sigmas))
    return z_BNC
