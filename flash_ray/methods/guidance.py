"""Guidance on velocities: classifier-free, and the weighted sum over several teachers."""

from collections.abc import Mapping

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


def combine_scores(weights_BM: Tensor, velocities: Mapping[int, Tensor]) -> Tensor:
    """v_real = sum_m lambda_m * v_m over the teachers m, each v_m (B, N, C).

    At a given z_t a score is an affine function of the velocity, s = -(z_t + (1-t)*v) / t, so that
    with weights that sum to 1 this is the sum s_real = sum_m lambda_m * s_m (arXiv 2606.03746).

    Raises:
        ValueError: a sample's weights over those teachers are negative or do not sum to 1.
    """
    teachers = sorted(velocities)
    used_BM = weights_BM[:, teachers]
    if used_BM.min() < 0 or (used_BM.sum(1) - 1).abs().max() > 1e-6:
        raise ValueError(f"weights {used_BM.tolist()} of teachers {teachers} must sum to 1")
    terms = [weights_BM[:, m].to(velocities[m]).view(-1, 1, 1) * velocities[m] for m in teachers]
    return sum(terms[1:], start=terms[0])


def score_gap(
    v_BNC: Tensor, v_base_BNC: Tensor, v_fake_BNC: Tensor, v_real_BNC: Tensor, t_B: Tensor
) -> tuple[Tensor, Tensor]:
    """How far a teacher's score is from the base's, and whether it pulls the student's way.

    With s = -(z_t + (1-t)*v) / t the difference of two scores at one z_t is -(1-t)/t times that of
    the velocities.

    Args:
        v_BNC, v_base_BNC: velocities of the teacher and of the base.
        v_fake_BNC, v_real_BNC: of the fake score and the weighted teachers: the student is moved
            along s_real - s_fake, against the DMD gradient.

    Returns:
        norm_B, the root mean square of s_m - s_base over tokens and channels; cosine_B, its cosine
        with s_real - s_fake, in [-1, 1], 0 where one of the two vanishes.
    """
    gap_BD = (v_BNC - v_base_BNC).float().flatten(1)
    pull_BD = (v_real_BNC - v_fake_BNC).float().flatten(1)
    norm_B = gap_BD.square().mean(1).sqrt() * (1 - t_B) / t_B
    return norm_B, torch.cosine_similarity(gap_BD, pull_BD, dim=1)
