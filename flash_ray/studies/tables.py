"""Tables of a study: the arms of a factor on a task, by one outcome, beside the base."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flash_ray.recipe.schema import Task
from flash_ray.storage.scores import BaselineName
from flash_ray.studies.inference import ALPHA, Effect, Model, case_mean
from flash_ray.studies.outcomes import DIVERSITY, Measured, Outcome
from flash_ray.studies.verdicts import Analysis

AVERAGE = "average"


@dataclass(frozen=True)
class Row:
    """One arm in a table.

    Args:
        cells: by column.
        best: the columns in which the arm beats every other one.
        rank: by the average, 1 is best.
        ties: ranks of the arms whose average does not differ from this one's.
        closed: the share of the gap between untrained base and teacher that the arm closes; None
            where the teacher is not better beyond chance, or the two were not scored.
        is_trained: the arm trains on this task; else what it does is zero-shot.
    """

    arm: str
    seeds: int
    cells: Mapping[str, Effect]
    best: frozenset[str]
    rank: int
    ties: tuple[int, ...]
    closed: Effect | None
    is_trained: bool


@dataclass(frozen=True)
class BaseRow:
    """The base as its teacher, or untrained, in a table: evaluations of it for a picture."""

    name: BaselineName
    nfe: int
    cells: Mapping[str, Effect]


@dataclass(frozen=True)
class Table:
    """One factor on one task by one outcome."""

    factor: str
    title: str
    measured: Measured
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    base: tuple[BaseRow, ...]

    @property
    def task(self) -> Task:
        """Whose categories the columns are."""
        return self.measured.task

    @property
    def is_zero_shot(self) -> bool:
        """No arm trains on the task."""
        return not any(row.is_trained for row in self.rows)


def tables_of(analysis: Analysis, trained: Mapping[str, Collection[Task]]) -> Iterator[Table]:
    """The tables of every factor: of its tasks, and of others that its arms were scored on without
    any of them training on it.

    Args:
        trained: the tasks that each arm trains on.
    """
    for name, factor in analysis.study.tables.items():
        unseen = [
            task
            for task in analysis.study.cases
            if task not in factor.tasks and not any(task in trained[arm] for arm in factor.arms)
        ]
        for task in (*factor.tasks, *unseen):
            for measured in analysis.outcomes:
                if measured.task == task and (
                    table := _table(analysis, name, factor.title, measured, trained)
                ):
                    yield table


def _table(
    analysis: Analysis,
    factor: str,
    title: str,
    measured: Measured,
    trained: Mapping[str, Collection[Task]],
) -> Table | None:
    outcome = analysis.outcomes[measured]
    categories = tuple(outcome.scores.categories)
    parts = {**{category: (category,) for category in categories}, AVERAGE: categories}
    models = {column: analysis.model(factor, measured, part) for column, part in parts.items()}
    if any(model is None for model in models.values()):
        return None
    known = {column: model for column, model in models.items() if model}
    scored = known[AVERAGE].scores.arms
    arms = [arm for arm in analysis.study.tables[factor].arms if arm in scored]
    means = {arm: {c: model.mean(arm) for c, model in known.items()} for arm in arms}
    winners = {c: _winner(model, arms) for c, model in known.items()}
    order = sorted(arms, key=lambda arm: -means[arm][AVERAGE].mean)
    rows = [
        Row(
            arm,
            known[AVERAGE].least_seeds([arm]),
            means[arm],
            frozenset(column for column, winner in winners.items() if winner == arm),
            order.index(arm) + 1,
            tuple(
                order.index(other) + 1
                for other in order
                if other != arm and not _differ(known[AVERAGE], arm, other)
            ),
            _closed(known[AVERAGE], arm, outcome, measured),
            measured.task in trained[arm],
        )
        for arm in arms
    ]
    base = tuple(_base_rows(outcome, parts))
    return Table(factor, title, measured, tuple(parts), tuple(rows), base)


def _base_rows(outcome: Outcome, parts: Mapping[str, Sequence[str]]) -> Iterator[BaseRow]:
    for name, values in outcome.base.items():
        cells = {c: case_mean({k: values[k] for k in part}) for c, part in parts.items()}
        yield BaseRow(name, outcome.nfe[name], cells)


def _closed(model: Model, arm: str, outcome: Outcome, measured: Measured) -> Effect | None:
    """None of diversity too: a teacher is not the goal of it."""
    if measured.outcome == DIVERSITY or not {"teacher", "untrained"} <= set(outcome.base):
        return None
    return model.closed(arm, outcome.base["teacher"], outcome.base["untrained"])


def _winner(model: Model, arms: Sequence[str]) -> str | None:
    """The arm that beats every other one, if there is one."""
    means_A = model.scores.means_A()
    top = max(arms, key=lambda arm: means_A[model.scores.arms.index(arm)])
    others = [arm for arm in arms if arm != top]
    return top if others and all(_differ(model, top, other) for other in others) else None


def _differ(model: Model, one: str, other: str) -> bool:
    """Whether two arms differ beyond chance; with one seed that is not known."""
    effect = model.contrast([one], [other])
    return not np.isnan(effect.se) and model.least_seeds([one, other]) > 1 and effect.p() < ALPHA
