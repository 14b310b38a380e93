"""Lays two finished evaluations side by side: scores by category, and their paired difference."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from flash_ray.evaluation.statistics import interval
from flash_ray.serving.evaluations import EvaluationSpec
from flash_ray.serving.schemas import Answer, Beside, EvaluationPair, EvaluationResult, MeanScore

Unlike = Literal["benchmark", "task", "judge", "cases"]
Finished = tuple[EvaluationSpec, EvaluationResult]


def lay_beside(left: Finished, right: Finished) -> EvaluationPair:
    """Scores of both by category, with 95 % intervals; differences only where all is alike."""
    unlike = _unlike(left, right)
    sides = [_by_category(result.answers) for _, result in (left, right)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    everything = [{k: v for rows in side.values() for k, v in rows.items()} for side in sides]
    return EvaluationPair(
        left=left[0].id,
        right=right[0].id,
        unlike=unlike,
        categories={
            name: _beside(sides[0].get(name), sides[1].get(name), not unlike) for name in names
        },
        all=_beside(everything[0], everything[1], not unlike),
    )


def _unlike(left: Finished, right: Finished) -> list[Unlike]:
    """In what two evaluations differ that makes their scores incomparable."""
    (one, one_result), (other, other_result) = left, right
    cases = [{answer.case for answer in result.answers} for result in (one_result, other_result)]
    differing: Mapping[Unlike, bool] = {
        "benchmark": (one.benchmark, one.digest) != (other.benchmark, other.digest),
        "task": one.task != other.task,
        "judge": (one.judge, one.vlm) != (other.judge, other.vlm),
        "cases": cases[0] != cases[1],
    }
    return [field for field, differs in differing.items() if differs]


def _by_category(answers: Sequence[Answer]) -> dict[str, dict[str, float | None]]:
    """Scores by category and case."""
    categories: dict[str, dict[str, float | None]] = {}
    for answer in answers:
        categories.setdefault(answer.category, {})[answer.case] = answer.score
    return categories


def _beside(
    left: Mapping[str, float | None] | None,
    right: Mapping[str, float | None] | None,
    are_alike: bool,
) -> Beside:
    paired = None
    if left is not None and right is not None and are_alike:
        pairs = [(left[case], right[case]) for case in left]
        paired = [a - b for a, b in pairs if a is not None and b is not None]
    return Beside(
        left=None if left is None else _mean(list(left.values())),
        right=None if right is None else _mean(list(right.values())),
        difference=None if paired is None else _mean(paired),
    )


def _mean(values: Sequence[float | None]) -> MeanScore:
    """The mean of those that there are; an interval takes two of them."""
    known = [value for value in values if value is not None]
    return MeanScore(
        score=float(np.mean(known)) if known else None,
        interval=interval(known) if len(known) > 1 else None,
        counted=len(known),
    )
