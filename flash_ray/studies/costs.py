"""What trials took, and what their teachers did: means over an arm's seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flash_ray.studies.records import Record, TeacherMeans


@dataclass(frozen=True)
class ArmCost:
    """What a trial of an arm takes, means over seeds.

    Args:
        unique: different training cases of all categories.
        passes: the fewest and the most over the categories.
        compute: of `unit`, of all workers, without teachers.
        seconds: from the start of a trial to its end.
    """

    arm: str
    iterations: int
    images: int
    unique: int
    passes: tuple[float, float]
    teacher_calls: float
    compute: float
    unit: str
    seconds: float


@dataclass(frozen=True)
class TeacherRow:
    """One teacher of an arm at one rung (from 1), means over seeds."""

    arm: str
    teacher: str
    rung: int
    means: TeacherMeans


def costs_of(arms: Sequence[str], records: Sequence[Record]) -> Iterator[ArmCost]:
    """The cost of each arm that has any trial that ended well."""
    for arm in arms:
        of_arm = [record for record in records if record.arm == arm]
        costs = [record.cost for record in of_arm if record.cost]
        if not costs:
            continue
        uses = [use for categories in of_arm[0].data.values() for use in categories.values()]
        passes = [use.passes for use in uses]
        yield ArmCost(
            arm,
            of_arm[0].iterations,
            costs[0].images,
            sum(use.unique for use in uses),
            (min(passes), max(passes)),
            float(np.mean([cost.teacher_calls for cost in costs])),
            float(np.mean([cost.compute for cost in costs])),
            costs[0].unit,
            float(np.mean([cost.total_seconds for cost in costs])),
        )


def teachers_of(arms: Sequence[str], records: Sequence[Record]) -> Iterator[TeacherRow]:
    """Rows for each arm with several teachers, or one that is not the base, by rung."""
    for arm in arms:
        runs = [record.teachers for record in records if record.arm == arm and record.teachers]
        if not runs or set(runs[0]) == {"base"}:
            continue
        for teacher in runs[0]:
            for rung in sorted(runs[0][teacher]):
                cells = [run[teacher][rung] for run in runs if rung in run.get(teacher, {})]
                means = TeacherMeans(
                    weight=sum(cell.weight for cell in cells) / len(cells),
                    norm=_mean_of_known([cell.norm for cell in cells]),
                    cosine=_mean_of_known([cell.cosine for cell in cells]),
                )
                yield TeacherRow(arm, teacher, rung, means)


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean without what is None; None if nothing is left."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
