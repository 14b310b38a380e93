"""Backward simulation: the student's own states, not noised data, are its training inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from flash_ray.backbones.sampling import VelocityFn, euler


@torch.no_grad()
def rollout(
    velocity: VelocityFn, noise_BNC: Tensor, sigmas: Sequence[float], exit_rung: int
) -> tuple[Tensor, float]:
    """Runs the student's sampler down to rung `exit_rung` (0 to K-1), without gradients.

    Source: DMD2, arXiv 2405.14867, section 4.4, with the deterministic Euler sampler that is used
    at inference.

    Returns:
        z_BNC at that rung (`noise_BNC` itself at rung 0) and the rung's sigma.
    """
    if not 0 <= exit_rung < len(sigmas):
        raise ValueError(f"exit_rung {exit_rung} is not one of the {len(sigmas)} rungs")
    return euler(velocity, noise_BNC, sigmas[: exit_rung + 1]), sigmas[exit_rung]
