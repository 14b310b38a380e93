"""Rectified flow: noising and the conversions between velocity, data and noise. Only torch.

z_t = (1-t)*x + t*eps, v = eps - x, t in [0, 1] (Liu et al., arXiv 2209.03003). Times t_B have one
entry a sample and are broadcast over the rest.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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


def velocity_to_eps(z: Tensor, t_B: Tensor, v: Tensor) -> Tensor:
    """The noise that z_t and v imply: eps = z_t + (1-t)*v."""
    return z + (1 - _broadcast(t_B, z)) * v


def _broadcast(t_B: Tensor, like: Tensor) -> Tensor:
    return t_B.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


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
