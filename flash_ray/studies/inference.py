"""Intervals and tests of arm means and their differences, by Student's t on pooled variances.

A difference between groups of arms has the standard error of pooled seeds and of arms by cases (see
`components`), and as many degrees of freedom as the pooled seeds. With three seeds of each arm this
covers as it says, where resampling three seeds does not (tests/unit/test_study_inference.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flash_ray.studies.components import Scores, Variances, estimate, over_cases

ALPHA = 0.05
DRAWS = 20_000  # of arm means, for the probability of being the best


@dataclass(frozen=True)
class Effect:
    """A mean or a difference of means, and how sure it is; arrays, if of many studies.

    Args:
        se: the standard error; nan where it cannot be estimated.
        df: degrees of freedom of its t distribution.
    """

    mean: float
    se: float
    df: int

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """The confidence interval of that level."""
        half = quantile((1 + level) / 2, self.df) * self.se
        return self.mean - half, self.mean + half

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """The upper end of the 95 % interval."""
        return self.interval()[1]

    def p(self, border: float = 0.0) -> float:
        """The two-sided p value of the border; nan without a standard error."""
        from scipy.stats import t  # takes half a second

        distance = np.abs(self.mean - border)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 2 * t.sf(np.where(distance == 0, 0.0, distance / self.se), self.df)
        return found if np.ndim(found) else float(found)

    def within(self, margin: float) -> bool:
        """Whether the 90 % interval is inside ±margin: two one-sided tests at 5 % (TOST)."""
        low, high = self.interval(1 - 2 * ALPHA)
        return -margin < low and high < margin


def quantile(probability: float, df: int) -> float:
    """A quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(probability, df))


@dataclass(frozen=True)
class Model:
    """One outcome of the arms of a factor over some categories, with what it varies with.

    Args:
        scores: of these categories; where pairing holds, of the factor's arms and common seeds.
        variances: of contrasts.
        own: of arm means; the same but where pairing holds.
    """

    scores: Scores
    variances: Variances
    own: Variances

    def mean(self, arm: str) -> Effect:
        """An arm's mean, over the seeds and cases that could have been."""
        return self._mean_of(arm, {})

    def closed(
        self, arm: str, teacher: Mapping[str, np.ndarray], untrained: Mapping[str, np.ndarray]
    ) -> Effect | None:
        """The share of the gap from the untrained base to the teacher that an arm closes.

        Args:
            teacher, untrained: scores by category, of the cases in order.

        Returns:
            None where the teacher is not better beyond chance.
        """
        names = list(self.scores.categories)
        gap = case_mean({name: teacher[name] - untrained[name] for name in names})
        if not gap.low > 0:
            return None
        start = float(np.mean([untrained[name].mean() for name in names]))
        share = (self.mean(arm).mean - start) / gap.mean
        mixed = {name: (1 - share) * untrained[name] + share * teacher[name] for name in names}
        rest = self._mean_of(arm, mixed)  # 0, with the error that the share has times the gap
        return Effect(share, rest.se / gap.mean, rest.df)

    def _mean_of(self, arm: str, less: Mapping[str, np.ndarray]) -> Effect:
        """The mean of an arm, or of its differences from scores by category, case by case."""
        row = self.scores.arms.index(arm)
        values = {
            name: self.scores.case_means_AC(name)[..., row, :] - less.get(name, 0.0)
            for name in self.scores.categories
        }
        found, own = case_mean(values), self.own
        variance = found.se**2 + own.seed_alone / self.scores.seeds_A[row]
        df = min(own.seed_df, own.case_df) if own.seed_df else own.case_df
        return Effect(found.mean, np.sqrt(variance), df)

    def contrast(self, left: Sequence[str], right: Sequence[str]) -> Effect:
        """The mean of the left arms minus that of the right ones."""
        means_A, of = self.scores.means_A(), self.scores.arms.index
        rows = [[of(arm) for arm in arms] for arms in (left, right)]
        difference = means_A[..., rows[0]].mean(-1) - means_A[..., rows[1]].mean(-1)
        seeds = [[int(self.scores.seeds_A[row]) for row in side] for side in rows]
        return Effect(difference, *standard_error(self.variances, *seeds))

    def least_seeds(self, arms: Sequence[str]) -> int:
        """The fewest seeds that any of the arms has."""
        return min(int(self.scores.seeds_A[self.scores.arms.index(arm)]) for arm in arms)

    def probability_best(self, arm: str, others: Sequence[str]) -> float:
        """The probability that an arm's mean is above the others', given the data alone."""
        rows = [self.scores.arms.index(name) for name in (arm, *others)]
        means_A = self.scores.means_A()[rows]
        var_A = self.variances.seed / self.scores.seeds_A[rows] + self.variances.case_part
        rng, df = np.random.default_rng(0), max(self.variances.seed_df, 1)
        stretch_D1 = np.sqrt(df / rng.chisquare(df, (DRAWS, 1)))
        drawn_DA = means_A + np.sqrt(var_A) * stretch_D1 * rng.normal(size=(DRAWS, len(rows)))
        return float(np.mean(drawn_DA.argmax(1) == 0))


def fit(
    scores: Scores, arms: Sequence[str], categories: Sequence[str], paired: bool = False
) -> Model:
    """Fits the arms of a factor; seeds are pooled over all arms of the study, or paired.

    Args:
        paired: the arms see the same data in the same order under each seed. It counts where they
            have two seeds in common.
    """
    of_all = scores.of(scores.arms, categories)
    own = estimate(of_all, arms)
    common = of_all.of(arms, categories).shared()
    if paired and len(common.seeds) > 1 and len(arms) > 1:
        return Model(common, estimate(common, arms, paired=True), own)
    return Model(of_all, own, own)


def standard_error(
    variances: Variances, left: Sequence[int], right: Sequence[int]
) -> tuple[float, int]:
    """The standard error of a difference between two groups of arms, and its degrees of freedom.

    Args:
        left, right: how many seeds each arm of the group has.

    Returns:
        nan where a category has one case only: how much cases differ is not known then.
    """
    seeds = sum(sum(1 / count for count in side) / len(side) ** 2 for side in (left, right))
    variance = variances.seed * seeds + variances.case_part * (1 / len(left) + 1 / len(right))
    if min(variances.cases.values()) < 2:
        variance = variance * float("nan")
    return np.sqrt(variance), variances.seed_df or variances.case_df


def case_mean(values: Mapping[str, np.ndarray]) -> Effect:
    """The mean over categories of means over cases (..., C), and how far the cases decide it."""
    cases = {name: of.shape[-1] for name, of in values.items()}
    mean = np.mean([of.mean(-1) for of in values.values()], axis=0)
    if min(cases.values()) < 2:
        return Effect(mean, mean * float("nan"), 1)
    variance = over_cases({name: of.var(-1, ddof=1) for name, of in values.items()}, cases)
    return Effect(mean, np.sqrt(variance), sum(cases.values()) - len(cases))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p values so that all of a family are right together (Holm 1979)."""
    order = np.argsort(p_values)
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted.tolist()
