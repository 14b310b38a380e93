"""What a judge is, and the means of its scores; `choose` makes judges from their names."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.statistics import interval
from flash_ray.recipe.schema import Section
from flash_ray.storage.scores import FIVE as FIVE

Runs = Literal["driver", "cpu", "worker"]


class CaseScore(Section):
    """What a judge says of one picture.

    Args:
        score: on the judge's own scale, more is better; None where it has none.
        measures: parts of the score by name, such as compliance and quality, 0 to 1.
        failure: why a score that the judge should have had is missing, in a word.
        details: what the score comes from, as plain data. Reports show of it `attributes` (credit
            from 0 to 1 by name) where they do not hold, and `cap` and `reason`.
    """

    score: float | None
    measures: dict[str, float] = {}
    failure: str | None = None
    details: dict[str, Any] = {}


class CategoryScore(Section):
    """Means over the cases of a category.

    Args:
        cases, counted: all of them, and those that have a score.
        score, measures: means over those that have one; None and {} if none has.
        details: what else the judge says of the category, as plain data, such as diversity.
    """

    cases: int
    counted: int
    score: float | None
    measures: dict[str, float] = {}
    details: dict[str, Any] = {}


class JudgeResult(Section):
    """What one judge says of one model's answers to one task of a benchmark.

    Args:
        scale: what a score is, in words, such as "1 to 5".
        score: the mean over the cases with a score, None if there is none.
        interval: 95 % bootstrap interval of that mean over the cases.
        measures: means of the parts of the score, over the cases that have them, and their
            intervals.
        cases: by case id.
    """

    judge: str
    scale: str
    score: float | None
    interval: tuple[float, float] | None
    measures: dict[str, float] = {}
    measure_intervals: dict[str, tuple[float, float]] = {}
    categories: dict[str, CategoryScore] = {}
    cases: dict[str, CaseScore]

    @property
    def scores(self) -> list[float]:
        """The scores that there are, in the order of the cases."""
        return [case.score for case in self.cases.values() if case.score is not None]

    @property
    def scored(self) -> set[str]:
        """The ids of the cases that have a score."""
        return {name for name, case in self.cases.items() if case.score is not None}

    @property
    def failures(self) -> list[str]:
        """Why scores are missing, in the order of the cases."""
        return [case.failure for case in self.cases.values() if case.failure is not None]


class Judge(Protocol):
    """Says how good pictures are.

    One that judges pictures of some bases only has a method `validate_base(base, field)`, which
    raises UserError for a recipe's base that is none of these.

    Attributes:
        name: what commands and results call it.
        scale: what a score is, in words that tables repeat, such as "1 to 5"; more is better.
        runs: "driver": it waits for somebody else, or holds what must not travel; "cpu": tasks of a
            CPU each share the pictures; "worker": a task with the resources of a training worker
            has them all, for what loads a model. In a task it is pickled.
    """

    name: str
    scale: str
    runs: Runs

    def can_judge(self, case: Case) -> bool:
        """Whether the judge has something to say of answers to this case."""
        ...

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3), the answers to `cases` in order; of a case
        that it cannot judge a score of None.

        Raises:
            UserError: the judge cannot be used.
        """
        ...

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """What it says of a category as a whole, beyond means, given all its cases and their
        scores; {} for nothing. Tables show the numbers among it; reports show `diversity`, by
        factor a `distance` and the `floor` that true samples have."""
        ...


def summarize(judge: Judge, cases: Sequence[Case], scores: Sequence[CaseScore]) -> JudgeResult:
    """Means, intervals and categories of the scores of all cases.

    Raises:
        ValueError: there are more or fewer scores than cases.
    """
    categories: dict[str, list[tuple[Case, CaseScore]]] = {}
    for case, score in zip(cases, scores, strict=True):
        categories.setdefault(case.category, []).append((case, score))
    known, measured = _known(scores), _measured(scores)
    return JudgeResult(
        judge=judge.name,
        scale=judge.scale,
        score=_mean(known),
        interval=interval(known) if known else None,
        measures={name: float(np.mean(values)) for name, values in measured.items()},
        measure_intervals={name: interval(values) for name, values in measured.items()},
        categories={
            name: _category(judge, *zip(*pairs, strict=True)) for name, pairs in categories.items()
        },
        cases={case.id: score for case, score in zip(cases, scores, strict=True)},
    )


def _category(judge: Judge, cases: Sequence[Case], scores: Sequence[CaseScore]) -> CategoryScore:
    known = _known(scores)
    return CategoryScore(
        cases=len(cases),
        counted=len(known),
        score=_mean(known),
        measures={name: float(np.mean(values)) for name, values in _measured(scores).items()},
        details=dict(judge.describe(cases, scores)),
    )


def _known(scores: Sequence[CaseScore]) -> list[float]:
    return [score.score for score in scores if score.score is not None]


def _measured(scores: Sequence[CaseScore]) -> dict[str, list[float]]:
    """The values of each measure, of the cases that have it."""
    names = dict.fromkeys(name for score in scores for name in score.measures)
    return {name: [s.measures[name] for s in scores if name in s.measures] for name in names}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
