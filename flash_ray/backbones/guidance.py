"""Classifier-free guidance on velocities."""

import torch
from torch import Tensor


def guided_velocity(v_cond: Tensor, v_uncond: Tensor, scale: float, rescale: bool) -> Tensor:
    """Moves the velocity away from the unconditional one, optionally keeping its length.

    v = v_uncond + scale * (v_cond - v_uncond) (Ho & Salimans, arXiv 2207.12598); with `rescale`
    each token of v is given the norm of v_cond over the channels (the Qwen-Image pipelines).

    Args:
        v_cond, v_uncond: velocities, (..., C).
        scale: 1 gives v_cond, 0 gives v_uncond (with v_cond's norms if `rescale`).
    """
    v = v_uncond + scale * (v_cond - v_uncond)
    if not rescale:
        return v
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True, dtype=torch.float32)
    target = torch.linalg.vector_norm(v_cond, dim=-1, keepdim=True, dtype=torch.float32)
    return v * (target / norm.clamp_min(1e-12)).to(v.dtype)
