"""What a judge is: cases and pictures in, one score of each out; and the means of its scores."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.statistics import interval
from flash_ray.recipe.schema import Section


class CaseScore(Section):
    """What a judge says of one picture.

    Args:
        score: 1 to 5, or None where it has none.
        measures: parts of the score, each 0 to 1, by name, such as compliance and quality.
        failure: why a score that the judge should have had is missing, in a word.
        details: what the score comes from, as plain data. Reports show of it `attributes` (credit
            from 0 to 1 by name) where they do not hold, and `cap` and `reason`.
    """

    score: float | None = Field(ge=1, le=5)
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
        score: the mean over the cases with a score, None if there is none.
        interval: 95 % bootstrap interval of that mean over the cases.
        measures: means of the parts of the score, over the cases that have them.
        cases: by case id.
    """

    judge: str
    score: float | None
    interval: tuple[float, float] | None
    measures: dict[str, float] = {}
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

    Attributes:
        name: what commands and results call it.
        in_tasks: whether it computes on CPUs alone, so that Ray tasks may share the pictures; it is
            then pickled.
    """

    name: str
    in_tasks: bool

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
    known = [score.score for score in scores if score.score is not None]
    return JudgeResult(
        judge=judge.name,
        score=_mean(known),
        interval=interval(known) if known else None,
        measures=_measures(scores),
        categories={
            name: _category(judge, *zip(*pairs, strict=True)) for name, pairs in categories.items()
        },
        cases={case.id: score for case, score in zip(cases, scores, strict=True)},
    )


def require(module: str, extra: str) -> None:
    """Raises UserError if an optional module is not installed, with what to install."""
    if find_spec(module) is None:
        raise UserError(
            f"--judge: {module} is not installed; run `pip install 'flash-ray[{extra}]'`, or "
            "choose another judge"
        )


def _category(judge: Judge, cases: Sequence[Case], scores: Sequence[CaseScore]) -> CategoryScore:
    known = [score.score for score in scores if score.score is not None]
    return CategoryScore(
        cases=len(cases),
        counted=len(known),
        score=_mean(known),
        measures=_measures(scores),
        details=dict(judge.describe(cases, scores)),
    )


def _measures(scores: Sequence[CaseScore]) -> dict[str, float]:
    names = dict.fromkeys(name for score in scores for name in score.measures)
    return {
        name: float(np.mean([s.measures[name] for s in scores if name in s.measures]))
        for name in names
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
