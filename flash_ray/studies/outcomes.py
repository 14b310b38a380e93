"""What arms are compared by: tables of arms, seeds and cases, from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe.schema import Task
from flash_ray.storage.scores import BaselineName
from flash_ray.studies.baselines import Baselines
from flash_ray.studies.components import Scores
from flash_ray.studies.records import Record

SCORE, DIVERSITY = "score", "diversity"
Horizon = Literal["late", "early"]
Cases = Mapping[Task, Sequence[Case]]


class Measured(NamedTuple):
    """What a number is of: `score`, a measure of the judge, or `diversity`, and when."""

    task: Task
    horizon: Horizon = "late"
    outcome: str = SCORE


@dataclass(frozen=True)
class Outcome:
    """One outcome of all arms.

    Args:
        base: the same of the base by category (C,), where every case has it.
        nfe: evaluations of the base for a picture.
        left_out: cases that some trial has none of; they are left out for all.
    """

    scores: Scores
    base: Mapping[BaselineName, Mapping[str, np.ndarray]]
    nfe: Mapping[BaselineName, int]
    left_out: int


def outcomes_of(
    arms: Sequence[str],
    cases: Cases,
    records: Sequence[Record],
    baselines: Baselines | None = None,
) -> dict[Measured, Outcome]:
    """Everything that the records let arms be compared by.

    Args:
        cases: that the trials were scored on, by task.
    """
    found = {}
    for measured in _measured(cases, records):
        outcome = _outcome(arms, cases[measured.task], records, baselines, measured)
        if outcome:
            found[measured] = outcome
    return found


def _measured(cases: Cases, records: Sequence[Record]) -> Iterator[Measured]:
    for task in cases:
        for horizon in ("late", "early"):
            of_all = [_scores_at(record, horizon).get(task, {}) for record in records]
            if any(of_all):
                yield Measured(task, horizon)
            names = [name for of in of_all for case in of.values() for name in case.measures]
            for name in dict.fromkeys(names):
                yield Measured(task, horizon, name)
        if any(record.diversity.get(task) for record in records):
            yield Measured(task, "late", DIVERSITY)


def _scores_at(record: Record, horizon: Horizon) -> Mapping[Task, Mapping[str, CaseScore]]:
    return record.scores if horizon == "late" else record.early


def _outcome(
    arms: Sequence[str],
    cases: Sequence[Case],
    records: Sequence[Record],
    baselines: Baselines | None,
    measured: Measured,
) -> Outcome | None:
    """None if no case has it of every trial that has any."""
    tables = {(record.arm, record.seed): _values(record, measured) for record in records}
    tables = {trial: values for trial, values in tables.items() if values}
    counted = [case for case in cases if all(case.id in values for values in tables.values())]
    if not tables or not counted:
        return None
    asked = {case for values in tables.values() for case in values}
    if measured.outcome == SCORE:
        asked = {case.id for case in cases}
    categories: dict[str, list[str]] = {}
    for case in counted:
        categories.setdefault(case.category, []).append(case.id)
    scores = _scores(arms, tables, categories)
    base, nfe = _base(baselines, measured, categories)
    return Outcome(scores, base, nfe, len(asked) - len(counted))


def _scores(
    arms: Sequence[str],
    tables: Mapping[tuple[str, int], Mapping[str, float]],
    categories: Mapping[str, Sequence[str]],
) -> Scores:
    with_any = [arm for arm in arms if any(arm == of for of, _ in tables)]
    seeds = sorted({seed for _, seed in tables})
    present_AS = np.array([[(arm, seed) in tables for seed in seeds] for arm in with_any])
    values = {
        name: np.array(
            [
                [[tables.get((arm, seed), {}).get(case, 0.0) for case in ids] for seed in seeds]
                for arm in with_any
            ]
        )
        for name, ids in categories.items()
    }
    return Scores(tuple(with_any), tuple(seeds), present_AS, values)


def _values(record: Record, measured: Measured) -> dict[str, float]:
    """What a trial has, by case."""
    if measured.outcome == DIVERSITY:
        known = record.diversity.get(measured.task, {})
        return {case: value for case, value in known.items() if value is not None}
    return _of_cases(_scores_at(record, measured.horizon).get(measured.task, {}), measured)


def _of_cases(scores: Mapping[str, CaseScore], measured: Measured) -> dict[str, float]:
    if measured.outcome == SCORE:
        return {case: of.score for case, of in scores.items() if of.score is not None}
    name = measured.outcome
    return {case: of.measures[name] for case, of in scores.items() if name in of.measures}


def _base(
    baselines: Baselines | None, measured: Measured, categories: Mapping[str, Sequence[str]]
) -> tuple[dict[BaselineName, dict[str, np.ndarray]], dict[BaselineName, int]]:
    found: dict[BaselineName, dict[str, np.ndarray]] = {}
    nfe: dict[BaselineName, int] = {}
    for name, model in baselines.models.items() if baselines else ():
        if measured.outcome == DIVERSITY:
            values = dict(model.diversity.get(measured.task, {}))
        else:
            values = _of_cases(model.scores.get(measured.task, {}), measured)
        if all(case in values for ids in categories.values() for case in ids):
            nfe[name] = model.nfe
            found[name] = {
                category: np.array([values[case] for case in ids])
                for category, ids in categories.items()
            }
    return found, nfe
