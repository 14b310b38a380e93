"""Rectified flow: noising and the conversions between velocity, data and noise. Only torch.

z_t = (1-t)*x + t*eps, v = eps - x, t in [0, 1] (Liu et al., arXiv 2209.03003). Times t_B have one
entry a sample and are broadcast over the rest.
"""

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
