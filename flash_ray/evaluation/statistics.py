"""Means with bootstrap intervals over the cases of a benchmark.

Studies, whose scores differ by seeds too, have `studies.inference`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean (percentile method, 10,000 resamples)."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    return _bootstrap(np.asarray(values), np.mean, 10_000)


def share(part: Sequence[float], whole: Sequence[float]) -> Estimate | None:
    """Estimates what share of the mean of `whole` the mean of `part` is, paired by position.

    None where the mean of `whole` may be 0 or less: then there is nothing to have a share of.
    """
    part_C, whole_C = np.asarray(part), np.asarray(whole)
    if interval(whole_C)[0] <= 0:
        return None

    def statistic(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        return part_C[chosen].mean(axis) / whole_C[chosen].mean(axis)

    low, high = _bootstrap(np.arange(len(part_C)), statistic, RESAMPLES)
    return Estimate(float(part_C.mean() / whole_C.mean()), low, high)


def _bootstrap(
    sample: np.ndarray, statistic: Callable[..., np.ndarray], resamples: int
) -> tuple[float, float]:
    """The 95 % interval of a statistic by the percentile method, always from the same draws.

    Args:
        statistic: of the resampled sample along `axis`.
    """
    from scipy.stats import bootstrap  # takes half a second

    limits = bootstrap(
        (sample,),
        statistic,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        rng=0,
    ).confidence_interval
    return float(limits.low), float(limits.high)
