"""What a comparison can find, from its standard error: before a study, and of what it left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flash_ray.studies.components import Variances
from flash_ray.studies.inference import ALPHA, quantile, standard_error

MOST_SEEDS, MOST_CASES = 50, 1000  # that are thought of
POWER, CERTAIN = 0.8, 30.0  # standard errors at which power is 1


@dataclass(frozen=True)
class Design:
    """How large a comparison is.

    Args:
        left, right: arms of each side.
        arms: of the whole study, over which seeds are pooled.
        cases: by category.
    """

    left: int
    right: int
    arms: int
    seeds: int
    cases: Mapping[str, int]

    def standard_error(self, variances: Variances) -> tuple[float, int]:
        """The standard error of the difference, and its degrees of freedom."""
        seeds = [self.seeds]
        planned = variances.at(self.cases, self.arms * (self.seeds - 1))
        return standard_error(planned, seeds * self.left, seeds * self.right)


def detectable(se: float, df: int) -> float:
    """The smallest true difference that is found, at 5 % on both sides, in 80 % of studies."""
    return (quantile(1 - ALPHA / 2, df) + quantile(POWER, df)) * se


def power_of_no_effect(se: float, df: int, margin: float) -> float:
    """How probably "no effect of `margin` or more" is concluded where there is none at all."""
    from scipy.stats import t  # takes half a second

    return max(0.0, float(2 * t.cdf(margin / se - quantile(1 - ALPHA, df), df) - 1))


def power_of_effect(se: float, df: int, effect: float) -> float:
    """How probably a true difference of `effect` is found, on its side, at 5 % on both sides."""
    from scipy.stats import nct

    shift = min(abs(effect) / se, CERTAIN)  # scipy has no answer far out
    return float(nct.sf(quantile(1 - ALPHA / 2, df), df, shift))


@dataclass(frozen=True)
class Needs:
    """What would make a difference of `margin` detectable; None: not within reason.

    Args:
        seeds: of every arm, with the same cases.
        cases: the most of a category, with the same seeds.
    """

    seeds: int | None
    cases: int | None


def needs(variances: Variances, design: Design, margin: float) -> Needs:
    """The fewest seeds, and the fewest cases, that suffice, each alone."""

    def suffices(seeds: int, cases: Mapping[str, int]) -> bool:
        of = Design(design.left, design.right, design.arms, seeds, cases)
        return detectable(*of.standard_error(variances)) <= margin

    seeds = next((n for n in range(2, MOST_SEEDS + 1) if suffices(n, design.cases)), None)
    largest = max(design.cases.values())
    for most in range(largest, MOST_CASES + 1):
        cases = {name: round(n * most / largest) for name, n in design.cases.items()}
        if suffices(max(design.seeds, 2), cases):
            return Needs(seeds, most)
    return Needs(seeds, None)
