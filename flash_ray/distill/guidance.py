"""The real score: guidance of one teacher and the weighted sum over teachers."""

from collections.abc import Sequence

from torch import Tensor

from flash_ray.backbones.guidance import guided_velocity

__all__ = ["combine_scores", "guided_velocity"]


def combine_scores(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    """v_real = sum_m lambda_m * v_m over teachers m, the lambdas summing to 1.

    At a given z_t a score is an affine function of the velocity, s = -(z_t + (1-t)*v) / t, so that
    with weights that sum to 1 this is the sum s_real = sum_m lambda_m * s_m (arXiv 2606.03746).

    Raises:
        ValueError: the weights do not sum to 1 or one of them is negative.
    """
    weights = [weight for weight, _ in weighted]
    if min(weights, default=-1.0) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"teacher weights {weights} must be >= 0 and sum to 1")
    return sum(weight * v for weight, v in weighted)
