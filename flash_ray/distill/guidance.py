"""The real score: each teacher's weight for each sample, and the weighted sum over teachers."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flash_ray.recipe import Recipe
from flash_ray.recipe.weights import Moment, weights_at


def teacher_weights(
    recipe: Recipe, rung: int, progress: float, task: str, categories: Sequence[str]
) -> Tensor:
    """lambda_BM, fp32: how much each teacher counts for each sample.

    Args:
        rung: of the student's rollout, 0 to K-1.
        progress: share of the run's updates that are done, in [0, 1).
        categories: of the samples.
    """
    rows = {c: weights_at(recipe, Moment(rung + 1, progress, task, c)) for c in set(categories)}
    return torch.tensor([rows[category] for category in categories])


def combine_scores(weights_BM: Tensor, velocities: Mapping[int, Tensor]) -> Tensor:
    """v_real = sum_m lambda_m * v_m over the teachers m that answered, each v_m (B, N, C).

    At a given z_t a score is an affine function of the velocity, s = -(z_t + (1-t)*v) / t, so that
    with weights that sum to 1 this is the sum s_real = sum_m lambda_m * s_m (arXiv 2606.03746).

    Raises:
        ValueError: a sample's weights over those teachers are negative or do not sum to 1.
    """
    teachers = sorted(velocities)
    used_BM = weights_BM[:, teachers]
    if used_BM.min() < 0 or (used_BM.sum(1) - 1).abs().max() > 1e-6:
        raise ValueError(f"weights {used_BM.tolist()} of teachers {teachers} must sum to 1")
    return sum(weights_BM[:, m].to(velocities[m]).view(-1, 1, 1) * velocities[m] for m in teachers)


def score_gap(
    v_BNC: Tensor, v_base_BNC: Tensor, v_fake_BNC: Tensor, v_real_BNC: Tensor, t_B: Tensor
) -> tuple[Tensor, Tensor]:
    """How far a teacher's score is from the base's, and whether it pulls the student's way.

    With s = -(z_t + (1-t)*v) / t the difference of two scores at one z_t is -(1-t)/t times that of
    the velocities.

    Args:
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
