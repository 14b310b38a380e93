"""What the base scores on a study's cases, as its teacher and untrained, once for all arms."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.statistics import Estimate, Scores, share
from flash_ray.recipe.plain import read_bytes
from flash_ray.recipe.schema import Section, Task
from flash_ray.storage.records import CorruptRecord, Digest, parse_record
from flash_ray.storage.scores import BaselineName
from flash_ray.studies.study import Trial

FILE = "baselines.json"
BaseScores = Mapping[str, tuple[int, Scores]]  # evaluations and scores by name


class BaselineScores(Section):
    """Scores of the base by task and case.

    Args:
        nfe: evaluations of the transformer for one picture, the most of any task.
        diversity: as `Record.diversity`.
    """

    nfe: int = Field(ge=1)
    scores: dict[Task, dict[str, CaseScore]]
    diversity: dict[Task, dict[str, float]] = {}


class Baselines(Section):
    """What baselines.json holds.

    Args:
        digest: 16 hex digits that change with whatever else decides the scores.
        code: that made them, as `code_digest`.
    """

    digest: str
    code: Digest
    models: dict[BaselineName, BaselineScores]


def read_baselines(trial: Trial, out: Path) -> tuple[Baselines | None, list[CorruptRecord]]:
    """What baselines.json says; None if there is none, or it is of other cases, of another base,
    or corrupt, and then what is wrong with it."""
    file = out / FILE
    if not file.exists():
        return None, []
    try:
        data = read_bytes(file)
        found = parse_record(Baselines, data, str(file), "run the study again")
    except CorruptRecord as fault:
        return None, [fault]
    return (found if found.digest == digest_of(trial) else None), []


def digest_of(trial: Trial) -> str:
    recipe = trial.recipe
    content: list[object] = [
        [recipe.base, recipe.training.precision, recipe.student.rungs],
        recipe.teacher_defaults.model_dump(mode="json"),
        [trial.benchmark[1], recipe.evaluation.judge_name, dict(trial.cases), trial.development],
        trial.diversity and trial.diversity.model_dump(),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class BaselineRow:
    """The base as its teacher, or untrained, in a table: its evaluations, and scores by column."""

    name: str
    nfe: int
    cells: Mapping[str, Estimate]


def base_scores(
    baselines: Baselines | None, cases: Mapping[Task, Sequence[Case]]
) -> dict[Task, BaseScores]:
    """Evaluations and scores of the base by task and name, where it has a score of every case."""
    found: dict[Task, BaseScores] = {}
    if baselines is None:
        return found
    for task, of_task in cases.items():
        of_models = {
            name: (of.nfe, {c.id: of.scores.get(task, {}).get(c.id) for c in of_task})
            for name, of in baselines.models.items()
        }
        if all(s and s.score is not None for _, of in of_models.values() for s in of.values()):
            found[task] = {
                name: (nfe, _base_table(of_task, of)) for name, (nfe, of) in of_models.items()
            }
    return found


def _base_table(cases: Sequence[Case], scores: Mapping[str, CaseScore | None]) -> Scores:
    categories: dict[str, list[float]] = {}
    for case in cases:
        if (score := scores[case.id]) and score.score is not None:
            categories.setdefault(case.category, []).append(score.score)
    return Scores((0,), {name: np.array([values]) for name, values in categories.items()})


def closed(arm: Scores, base: BaseScores) -> Estimate | None:
    """The share of the gap that an arm closes, of its means over seeds, case by case."""
    values = [
        np.concatenate([of.categories[name].mean(axis=0) for name in arm.categories])
        for of in (arm, base["teacher"][1], base["untrained"][1])
    ]
    student_C, teacher_C, untrained_C = values
    return share(student_C - untrained_C, teacher_C - untrained_C)
