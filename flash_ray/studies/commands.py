"""The study commands' checks: what can be refused is refused before torch and ray take seconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_ray.checkpoints.open import open_store
from flash_ray.console import Steps
from flash_ray.errors import UserError
from flash_ray.evaluation.commands import refuse_recipe
from flash_ray.studies.load import load_study
from flash_ray.studies.plan import Trial, plan_trials
from flash_ray.studies.schema import Study

STUDY = "study.json"


def run(name: str, out: Path, at_once: int | None, place: str | None, steps: Steps) -> list[Trial]:
    """Runs a study's trials that are not finished; returns all of them.

    Args:
        place: s3://bucket/prefix or the folder of an embedded store; None: the base recipe's
            bucket, or OUT/store.

    Raises:
        UserError: bad input, or trials that failed again and again, by name.
    """
    study = load_study(name)
    trials = plan_trials(study)
    recipes = {trial.arm: trial.recipe for trial in trials}
    for arm, recipe in recipes.items():
        try:
            refuse_recipe(recipe)
        except UserError as error:
            raise UserError(f"arms.{arm}: {error}") from error
    _claim(out, study)
    storage = next(iter(recipes.values())).runtime.storage
    if place is None:
        place = str(out / "store") if storage.url == "embedded" else storage.url
    with open_store(place, storage.endpoint, create=True) as store:
        from flash_ray.studies.run import run_trials

        failed = run_trials(trials, store, out, at_once, steps)
    if failed:
        first, reason = next(iter(failed.items()))
        raise UserError(
            f"study: {len(failed)} of {len(trials)} trials failed, {first}: {reason}; the others "
            "are kept: run the command again to repeat those that failed"
        )
    return trials


def opened(name: str, out: Path) -> tuple[Study, Sequence[Trial]]:
    """A study and its trials, for a folder that `run` has made.

    Raises:
        UserError: there is no such folder, or it is another study's.
    """
    study = load_study(name)
    if not (out / STUDY).is_file():
        raise UserError(
            f"--out: no study in {out}; allowed: the folder that `flash-ray study run {name}` "
            "was given; correct it"
        )
    _claim(out, study)
    return study, plan_trials(study)


def status(name: str, out: Path) -> list[dict[str, Any]]:
    """A row for each trial: its state (`finished`, `diverged`, `running`, `waiting`), the updates
    of a running one, and the scores of a finished one."""
    from flash_ray.studies.findings import average
    from flash_ray.studies.records import PROGRESS, read_records

    study, trials = opened(name, out)
    records = read_records(out, trials)
    file = out / PROGRESS
    running = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = []
    for trial in trials:
        record, updates = records.get(trial.name), running.get(trial.name)
        state = "waiting" if updates is None else "running"
        if record:
            state = "diverged" if record.diverged else "finished"
            updates = record.updates
        scores = {b: average(record, b) for b in study.benches} if record and record.scores else {}
        rows.append(
            {
                "trial": trial.name,
                "state": state,
                "updates": updates or 0,
                "of": trial.recipe.optimisation.updates,
                "scores": scores,
            }
        )
    return rows


def report(name: str, out: Path, to: Path | None) -> Path:
    """Writes the report of the trials that are finished; returns its folder.

    Raises:
        UserError: none is.
    """
    from flash_ray.studies.findings import find
    from flash_ray.studies.records import read_records
    from flash_ray.studies.report import write_report

    study, trials = opened(name, out)
    records = read_records(out, trials)
    if not records:
        raise UserError(
            f"--out: no trial in {out} is finished; see `flash-ray study status {name} --out {out}`"
        )
    to = to or out / "report"
    write_report(name, find(study, trials, records), out, to)
    return to


def _claim(out: Path, study: Study) -> None:
    """Makes the folder this study's; refuses one that holds anything else."""
    if (out / STUDY).is_file():
        theirs = json.loads((out / STUDY).read_text(encoding="utf-8"))["name"]
        if theirs != study.name:
            raise UserError(
                f"--out: {out} is of study {theirs}, not {study.name}; choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"--out: {out} holds something that no study wrote; allowed: a new or empty folder, "
            "or that of the same study; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / STUDY).write_text(study.model_dump_json(indent=1), encoding="utf-8")
