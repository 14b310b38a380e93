"""What the base scores on a study's cases, as its teacher and untrained, once for all arms."""

import hashlib
import json
from pathlib import Path

from pydantic import Field

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe.plain import read_bytes
from flash_ray.recipe.schema import Section, Task
from flash_ray.storage.records import CorruptRecord, Digest, parse_record
from flash_ray.storage.scores import BaselineName
from flash_ray.studies.study import Trial

FILE = "baselines.json"


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
