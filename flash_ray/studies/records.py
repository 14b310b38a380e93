"""What a study keeps of each trial: a small JSON record and a strip of pictures."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe.schema import Section
from flash_ray.studies.study import Trial

TRIALS, PICTURES, PROGRESS = "trials", "pictures", "progress.json"
SHOWN = 2  # pictures of each category in a strip


class Cost(Section):
    """What a trial took.

    Args:
        teacher_calls: evaluations of a teacher's transformer for one picture.
        seconds: of training, between the first update and the last.
        compute: of `unit`, of all workers, without teachers.
    """

    images: int
    teacher_calls: int
    seconds: float
    compute: float
    unit: str = Field(pattern="^(CPU|GPU)-seconds$")


class Record(Section):
    """A finished trial.

    Args:
        digest: of what decided the result, as `Trial.digest`.
        scores: by bench and case id: score (1 to 5), compliance, quality (0 to 1).
        diversity: gap to the world's, by bench and category; None where nothing is free.
        curve: (update, small bench scores).
        data: by task and category: unique cases, and how often each was taken.
        teachers: by teacher and rung: mean λ, and norm and cosine where they were compared.
        losses: by task, over the last tenth of the updates.
        diverged: the reason, if the student was lost; then there are no scores.
    """

    trial: str
    arm: str
    seed: int
    digest: str
    updates: int
    scores: dict[str, dict[str, tuple[float, float, float]]] = {}
    diversity: dict[str, dict[str, float | None]] = {}
    curve: tuple[tuple[int, dict[str, float]], ...] = ()
    cost: Cost | None = None
    data: dict[str, dict[str, dict[str, float]]] = {}
    teachers: dict[str, dict[str, dict[str, float]]] = {}
    losses: dict[str, dict[str, float]] = {}
    published: str | None = None
    diverged: str | None = None


def write_record(out: Path, record: Record) -> None:
    """Writes OUT/trials/NAME.json; whole or not at all."""
    folder = out / TRIALS
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{record.trial}.partial"
    partial.write_text(record.model_dump_json(exclude_defaults=True))
    partial.replace(folder / f"{record.trial}.json")


def read_records(out: Path, trials: Iterable[Trial]) -> dict[str, Record]:
    """The records of those trials that are finished, by name.

    Raises:
        UserError: a record cannot be read, or is of another recipe than the trial's.
    """
    found = {}
    for trial in trials:
        path = out / TRIALS / f"{trial.name}.json"
        if not path.is_file():
            continue
        try:
            record = Record.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise UserError(f"--out: {path} is corrupt; remove it, to run it again") from error
        if record.digest != trial.digest:
            raise UserError(
                f"--out: {path} is of digest {record.digest}, the study's trial has {trial.digest}:"
                " the study has changed; choose another --out, or give the study another name"
            )
        found[trial.name] = record
    return found


def strip(answers: Mapping[str, np.ndarray], cases: Mapping[str, list[Any]]) -> bytes:
    """The first pictures of each category side by side, as WebP."""
    chosen = [
        pictures_BHW3[index]
        for bench, pictures_BHW3 in answers.items()
        for index in shown(cases[bench])
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(chosen, axis=1)).save(buffer, "WEBP", quality=92, method=6)
    return buffer.getvalue()


def shown(cases: list[Any]) -> list[int]:
    """Indices of the cases whose pictures are kept: nobody picks them."""
    return [index for index, case in enumerate(cases) if case.index < SHOWN]


def summary(history: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    """A record's curve, cost, teachers and losses, from a run's history."""
    measures = [line["measures"] for line in history]
    seconds = sum(m["seconds"] for m in measures)
    held = sum(line["measures"]["seconds"] * line["workers"] for line in history)
    cpu = sum(m["cpu_seconds"] for m in measures)
    tail = history[-max(1, len(history) // 10) :]
    return {
        "curve": [(line["update"], line["bench"]) for line in history if "bench" in line],
        "cost": {
            "images": sum(int(m["images"]) for m in measures),
            "teacher_calls": sum(int(m["teacher_calls"]) for m in measures),
            "seconds": seconds,
            "compute": cpu if unit == "CPU-seconds" else held,
            "unit": unit,
        },
        "teachers": _means_of([line["teachers"] for line in history]),
        "losses": {task: own["all"] for task, own in _tasks(tail).items()},
    }


def _tasks(history: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    return _means_of(
        [{task: {"all": own} for task, own in line["tasks"].items()} for line in history]
    )


def _means_of(
    tables: list[dict[str, dict[str, dict[str, float]]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Tables of three levels, averaged cell by cell over those that have the cell."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for table in tables:
        for name, rows in table.items():
            for row, values in rows.items():
                for measure, value in values.items():
                    cells.setdefault((name, row, measure), []).append(value)
    out: dict[str, dict[str, dict[str, float]]] = {}
    for (name, row, measure), values in sorted(cells.items()):
        out.setdefault(name, {}).setdefault(row, {})[measure] = sum(values) / len(values)
    return out
