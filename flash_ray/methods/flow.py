"""Rectified flow: noising and the conversions between velocity and data.

z_t = (1-t)*x + t*eps, v = eps - x, t in [0, 1] (Liu et al., arXiv 2209.03003). Times t_B have one
entry a sample and are broadcast over the rest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_ray.methods.base import VelocityFn


def interpolate(x: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """z_t = (1-t)*x + t*eps."""
    t = _broadcast(t_B, x)
    return (1 - t) * x + t * eps


def velocity_target(x: Tensor, eps: Tensor) -> Tensor:
    """v = eps - x."""
    return eps - x


def velocity_to_x(z: Tensor, t_B: Tensor, v: Tensor) -> Tensor:
    """The data that z_t and v imply: x = z_t - t*v."""
    return z - _broadcast(t_B, z) * v


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Moves times in [0, 1] towards noise (shift > 1): shift*t / (1 + (shift-1)*t).

    Source: Esser et al., arXiv 2403.03206, section 5.3.2. The same of plain numbers, for schedules:
    `recipe.schema.sigma_schedule`.
    """
    return shift * t / (1 + (shift - 1) * t)


def euler(velocity: VelocityFn, z_BNC: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Integrates dz/dt = v from sigmas[0] down to sigmas[-1]; one sigma alone returns z_BNC."""
    for sigma, target in zip(sigmas[:-1], sigmas[1:], strict=True):
        t_B = torch.full((z_BNC.shape[0],), sigma, device=z_BNC.device)
        z_BNC = z_BNC + (target - sigma) * velocity(z_BNC, t_B)
    return z_BNC


def _broadcast(t_B: Tensor, like: Tensor) -> Tensor:
    return t_B.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
