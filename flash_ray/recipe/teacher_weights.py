"""λ: how much each teacher counts, by rung, progress, task and category (arXiv 2606.03746)."""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

from flash_ray.recipe.schema import TASKS, Recipe, Teacher, WeightRule


class Moment(NamedTuple):
    """What λ depends on: rung 1..K, progress in [0, 1), and the sample's task and category."""

    rung: int
    progress: float
    task: str
    category: str


def weight_at(teacher: Teacher, moment: Moment) -> float | None:
    """λ of one teacher: of the first rule that applies; None if none does."""
    if isinstance(teacher.weight, float):
        return teacher.weight
    return next((rule.weight for rule in teacher.weight if _applies(rule, moment)), None)


def weights_at(recipe: Recipe, moment: Moment) -> tuple[float, ...]:
    """λ of every teacher, in the recipe's order; they sum to 1 in a recipe that was checked."""
    return tuple(weight_at(teacher, moment) or 0.0 for teacher in recipe.teachers)


def moments(recipe: Recipe) -> Iterator[tuple[Moment, float]]:
    """One moment, and the end of its stretch of progress, for every cell of the recipe's tables."""
    rules = [rule for teacher in recipe.teachers for rule in _rules(teacher)]
    ends = sorted({0.0, 1.0, *(end for rule in rules for end in rule.progress)})
    rungs = range(1, len(recipe.student.rungs) + 1)
    for rung, (start, end), task in product(rungs, pairwise(ends), TASKS):
        weights = getattr(recipe.data.composition, task)
        if getattr(recipe.tasks, task):
            # Before its categories are named a task counts as one.
            for category in [name for name, weight in weights.items() if weight] or [""]:
                yield Moment(rung, start, task, category), end


def _rules(teacher: Teacher) -> tuple[WeightRule, ...]:
    return () if isinstance(teacher.weight, float) else teacher.weight


def _applies(rule: WeightRule, moment: Moment) -> bool:
    start, end = rule.progress
    return (
        (rule.rungs is None or moment.rung in rule.rungs)
        and start <= moment.progress < end
        and rule.task in (None, moment.task)
        and rule.category in (None, moment.category)
    )
