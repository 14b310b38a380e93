"""Means with bootstrap intervals: over cases, and over seeds and cases, paired.

Seeds and cases are resampled independently of each other, cases within their categories: the
pigeonhole bootstrap of Owen and Eckles, "Bootstrapping data arrays of arbitrary order", Annals of
Applied Statistics 6 (2012), which errs towards intervals that are too wide. With few seeds the
resampling understates how much they differ; hence the noise arms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9_999


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether the interval does, so that the mean may be 0 by chance."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Scores:
    """Scores of one arm: for each category `values_SC`, seeds by cases, in the same order for all
    arms."""

    seeds: tuple[int, ...]
    categories: Mapping[str, np.ndarray]

    def of(self, seeds: Sequence[int], categories: Sequence[str]) -> dict[str, np.ndarray]:
        """The tables (seeds, cases) of some categories, of these seeds in this order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return {name: self.categories[name][rows] for name in categories}


def mean(scores: Scores, categories: Sequence[str]) -> Estimate:
    """Estimates the mean over categories, seeds and cases."""
    return _estimate(scores.of(scores.seeds, categories))


def difference(
    left: Sequence[Scores], right: Sequence[Scores], categories: Sequence[str]
) -> Estimate | None:
    """Mean of the left arms minus mean of the right ones, paired by seed and case.

    Over the seeds that all of them have; None if there is none.
    """
    seeds = common_seeds([*left, *right])
    if not seeds:
        return None
    sides = [
        {
            name: np.mean([arm.of(seeds, categories)[name] for arm in arms], axis=0)
            for name in categories
        }
        for arms in (left, right)
    ]
    return _estimate({name: sides[0][name] - sides[1][name] for name in categories})


def common_seeds(arms: Sequence[Scores]) -> list[int]:
    """The seeds that all of the arms ran under."""
    return [seed for seed in arms[0].seeds if all(seed in arm.seeds for arm in arms)]


def _estimate(values: Mapping[str, np.ndarray]) -> Estimate:
    """Estimates the mean over the categories' means; `values` are (seeds, cases) each."""
    tables = list(values.values())
    seeds = len(tables[0])
    point = float(np.mean([table_SC.mean() for table_SC in tables]))
    cases = [np.arange(table_SC.shape[1]) for table_SC in tables]

    def statistic(*chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = chosen[-1] if seeds > 1 else np.zeros((1, 1), int)
        means = [
            table_SC[rows[..., :, None], columns[..., None, :]].mean((-1, -2))
            for table_SC, columns in zip(tables, chosen, strict=False)
        ]
        return np.mean(means, axis=0)

    samples = [*cases, np.arange(seeds)] if seeds > 1 else cases
    if any(len(sample) < 2 for sample in samples):
        return Estimate(point, float("nan"), float("nan"))
    low, high = _bootstrap(samples, statistic, RESAMPLES, batch=1000)
    return Estimate(point, low, high)


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean (percentile method, 10,000 resamples)."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    return _bootstrap((np.asarray(values),), np.mean, 10_000)


def share(part: Sequence[float], whole: Sequence[float]) -> Estimate | None:
    """Estimates what share of the mean of `whole` the mean of `part` is, paired by position.

    None where the mean of `whole` may be 0 or less: then there is nothing to have a share of.
    """
    part_C, whole_C = np.asarray(part), np.asarray(whole)
    if interval(whole_C)[0] <= 0:
        return None

    def statistic(chosen: np.ndarray, axis: int = -1) -> np.ndarray:
        return part_C[chosen].mean(axis) / whole_C[chosen].mean(axis)

    low, high = _bootstrap((np.arange(len(part_C)),), statistic, RESAMPLES)
    return Estimate(float(part_C.mean() / whole_C.mean()), low, high)


def _bootstrap(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    resamples: int,
    batch: int | None = None,
) -> tuple[float, float]:
    """The 95 % interval of a statistic by the percentile method, always from the same draws.

    Args:
        samples: resampled independently of each other.
        statistic: of the resampled samples along `axis`.
        batch: resamples that are computed at once.
    """
    from scipy.stats import bootstrap  # takes half a second

    limits = bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=batch,
        method="percentile",
        vectorized=True,
        rng=0,
    ).confidence_interval
    return float(limits.low), float(limits.high)
