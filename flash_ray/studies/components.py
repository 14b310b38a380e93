"""Where the scores of a study vary: with the seed, with the case, and with both at once.

The model: what an arm scores under a seed on a case is the arm's level, the difficulty of the case
(which cancels between arms), how well the arm suits the case, how good the seed is for the arm, and
flicker: what remains of one trial on one case. Cases and seeds are samples of many that could have
been; categories are given and weigh alike.

Shapes: A arms, S seeds, C cases. Axes before these are studies, where many are simulated at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scores:
    """One outcome of all arms on the same cases.

    Args:
        present_AS: which trials have scores; of every arm at least one has.
        categories: by category (..., A, S, C); 0 where a trial has no scores.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    present_AS: np.ndarray
    categories: Mapping[str, np.ndarray]

    def of(self, arms: Sequence[str], categories: Sequence[str]) -> Scores:
        """The scores of some arms in some categories, in that order."""
        rows = [self.arms.index(arm) for arm in arms]
        values = {name: self.categories[name][..., rows, :, :] for name in categories}
        return Scores(tuple(arms), self.seeds, self.present_AS[rows], values)

    def shared(self) -> Scores:
        """The scores under those seeds that all arms have."""
        columns = np.flatnonzero(self.present_AS.all(0))
        return Scores(
            self.arms,
            tuple(self.seeds[column] for column in columns),
            self.present_AS[:, columns],
            {name: values[..., columns, :] for name, values in self.categories.items()},
        )

    @property
    def seeds_A(self) -> np.ndarray:
        """How many seeds each arm has."""
        return self.present_AS.sum(1)

    @property
    def cases(self) -> dict[str, int]:
        """How many cases each category has."""
        return {name: values.shape[-1] for name, values in self.categories.items()}

    def case_means_AC(self, category: str) -> np.ndarray:
        """Means over the seeds, (..., A, C)."""
        share_AS = self.present_AS / self.seeds_A[:, None]
        return np.einsum("as,...asc->...ac", share_AS, self.categories[category])

    def trial_means_AS(self) -> np.ndarray:
        """Means over the categories' means, (..., A, S)."""
        return np.mean([values.mean(-1) for values in self.categories.values()], axis=0)

    def means_A(self) -> np.ndarray:
        """Means over categories, seeds and cases, (..., A)."""
        return np.mean([self.case_means_AC(name).mean(-1) for name in self.categories], axis=0)


@dataclass(frozen=True)
class Variances:
    """Estimates of what a mean over categories varies with; floats, or arrays of many studies.

    Args:
        cases: by category.
        seed: mean square over seeds of the trials' means, the flicker of these cases included; 0
            where no arm has two seeds.
        seed_df: its degrees of freedom.
        flicker: variance of one trial on one case, by category; 0 where no arm has two seeds.
        arm_case: variance of how well an arm suits a case, by category.
    """

    cases: Mapping[str, int]
    seed: Any
    seed_df: int
    flicker: Mapping[str, Any]
    arm_case: Mapping[str, Any]

    @property
    def case_df(self) -> int:
        """Degrees of freedom of a variance over cases within categories."""
        return sum(count - 1 for count in self.cases.values())

    @property
    def flicker_part(self) -> Any:
        """What flicker adds to the variance of a trial's mean."""
        return over_cases(self.flicker, self.cases)

    @property
    def case_part(self) -> Any:
        """What the choice of cases adds to the variance of an arm's mean, against other arms'."""
        return over_cases(self.arm_case, self.cases)

    @property
    def seed_alone(self) -> Any:
        """The variance over seeds of a trial's mean over endlessly many cases."""
        return np.maximum(0.0, self.seed - self.flicker_part)

    def at(self, cases: Mapping[str, int], seed_df: int) -> Variances:
        """What they would be with other numbers of cases of the same categories, and so many
        degrees of freedom of the seeds."""
        seed = self.seed_alone + over_cases(self.flicker, cases)
        return Variances(cases, seed, seed_df, self.flicker, self.arm_case)


def over_cases(variances: Mapping[str, Any], cases: Mapping[str, int]) -> Any:
    """The variance of a mean over categories, each the mean of independent cases."""
    return sum(variances[name] / count for name, count in cases.items()) / len(cases) ** 2


def estimate(scores: Scores, arms: Sequence[str], paired: bool = False) -> Variances:
    """Estimates the variances of contrasts between some of the arms.

    Args:
        scores: seeds and flicker are pooled over all arms of it.
        arms: those of one factor, over which the variance of arms by cases is pooled.
        paired: the arms, all there are, see the same data in the same order under each seed, which
            all have: what a seed does to all of them alike cancels.
    """
    pool = _without_common(scores) if paired else scores
    flicker = {name: _flicker(pool, name) for name in pool.categories}
    of_factor = scores.of(arms, list(scores.categories))
    per_seed = float(np.mean(1 / of_factor.seeds_A))
    arm_case = {
        name: np.maximum(0.0, _arms_by_cases(of_factor, name) - flicker[name] * per_seed)
        for name in scores.categories
    }
    means_AS = pool.trial_means_AS()
    own_A = (means_AS * pool.present_AS).sum(-1) / pool.seeds_A
    squares = (pool.present_AS * (means_AS - own_A[..., None]) ** 2).sum((-1, -2))
    df = int((pool.seeds_A - 1).sum())
    lost = len(pool.seeds) - 1 if paired else 0  # of the seeds' effects on all arms
    return Variances(scores.cases, squares / max(df, 1), df - lost, flicker, arm_case)


def _without_common(scores: Scores) -> Scores:
    """What remains of the scores without what the arms have in common on each case under each
    seed, stretched so that its mean squares over A arms are those with A - 1 degrees of freedom."""
    stretch = np.sqrt(len(scores.arms) / (len(scores.arms) - 1))
    values = {
        name: (values - values.mean(-3, keepdims=True)) * stretch
        for name, values in scores.categories.items()
    }
    return Scores(scores.arms, scores.seeds, scores.present_AS, values)


def _flicker(scores: Scores, category: str) -> Any:
    """The mean square of cases by seeds within arms."""
    values_ASC = scores.categories[category]
    of_case_AC = scores.case_means_AC(category)
    rest_ASC = values_ASC - of_case_AC[..., :, None, :]
    rest_ASC = rest_ASC - rest_ASC.mean(-1, keepdims=True)
    squares = (rest_ASC**2 * scores.present_AS[:, :, None]).sum((-1, -2, -3))
    return squares / max((scores.seeds_A - 1).sum() * (values_ASC.shape[-1] - 1), 1)


def _arms_by_cases(scores: Scores, category: str) -> Any:
    """The mean square of arms by cases, of means over seeds."""
    rest_AC = scores.case_means_AC(category)
    rest_AC = rest_AC - rest_AC.mean(-1, keepdims=True)
    rest_AC = rest_AC - rest_AC.mean(-2, keepdims=True)
    arms, cases = rest_AC.shape[-2:]
    return (rest_AC**2).sum((-1, -2)) / max((arms - 1) * (cases - 1), 1)
