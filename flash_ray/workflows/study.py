"""The study commands' checks: what can be refused is refused before torch and ray take seconds."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flash_ray.errors import UserError, unknown
from flash_ray.recipe import Recipe, dump_yaml
from flash_ray.storage.open import open_store
from flash_ray.storage.s3 import Store
from flash_ray.studies.space import combinations, in_words, run_prefix
from flash_ray.studies.study import Study, Trial, load_study, plan_trials, value_recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.distill import validate_recipe

STUDY, SEARCH, BEST = "study.json", "search.json", "best.yaml"
METHODS = ("asha", "optuna")
TRIED = 16  # combinations that a search tries, if the space has more


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
    for arm, recipe in {trial.arm: trial.recipe for trial in trials}.items():
        _refuse(f"arms.{arm}", recipe, place)
    _claim(out, study)
    with _store(trials[0].recipe, place, out) as store:
        from flash_ray.studies.runner import run_trials

        failed = run_trials(trials, store, out, at_once, steps)
    if failed:
        first, reason = next(iter(failed.items()))
        raise UserError(
            f"study: {len(failed)} of {len(trials)} trials failed, {first}: {reason}; the others "
            "are kept: run the command again to repeat those that failed"
        )
    return trials


def search(
    name: str,
    out: Path,
    method: str,
    count: int | None,
    at_once: int | None,
    place: str | None,
    steps: Steps,
) -> dict[str, Any]:
    """Searches a study's space; writes search.json and, of the best recipe, best.yaml.

    Args:
        count: combinations to try; None: all, at most `TRIED`.
        place: as for `run`.

    Returns:
        what search.json says.

    Raises:
        UserError: bad input, a folder whose search is finished, or not one trial that finished.
    """
    _validate_method(method)
    study = load_study(name)
    found = combinations(study)
    if count is None:
        count = min(TRIED, len(found))
    if count > len(found):
        raise UserError(
            f"--trials: {count}; the space has {len(found)} combinations; allowed: 1 to "
            f"{len(found)}; lower it"
        )
    for path, values in study.space.items():
        for value in values:
            _refuse(f"space.{path}", value_recipe(study, path, value), place)
    _claim(out, study)
    if (out / BEST).exists():
        raise UserError(
            f"--out: {out} holds a finished search, {BEST}; allowed: a new folder, or one whose "
            "search was cut off; use its result, or choose another --out"
        )
    with _store(found[0].recipe, place, out) as store:
        from flash_ray.studies.search import SearchLog, run_search

        about = {"study": study.name, "method": method, "every": study.curve_every}
        log = SearchLog(out, about, found, count, store, steps)
        log.forget(run_prefix(study))  # of a search that was cut off
        result = run_search(study, found, method, count, store, log, at_once, steps)
        log.forget(run_prefix(study))  # what a stopped worker wrote at last
    if log.best is None:
        row = result["trials"][0]
        raise UserError(
            f"search: no trial finished, {in_words(row['values'])}: {row['state']}, "
            f"{row.get('reason', 'no reason known')}; see {out / SEARCH}"
        )
    best = log.best.recipe.model_copy(update={"name": f"{study.name}-best"})
    (out / BEST).write_text(dump_yaml(best), encoding="utf-8")
    return result


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
    """A row for each trial: its state (`finished`, `diverged`, `begun`, `waiting`), the updates of
    one that has begun, whether or not it is running now, and the scores of a finished one."""
    from flash_ray.studies.findings import average
    from flash_ray.studies.records import PROGRESS, read_records

    study, trials = opened(name, out)
    records = read_records(out, trials)
    file = out / PROGRESS
    begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rows = []
    for trial in trials:
        record, updates = records.get(trial.name), begun.get(trial.name)
        state = "waiting" if updates is None else "begun"
        if record:
            state = "diverged" if record.diverged else "finished"
            updates = record.updates
        scores = {b: average(record, b) for b in study.benches} if record and record.scores else {}
        rows.append(
            {
                "trial": trial.name,
                "state": state,
                "updates": updates or 0,
                "of": trial.recipe.training.iterations,
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


def _refuse(field: str, recipe: Recipe, place: str | None) -> None:
    """Raises UserError, beginning with the field, if the recipe cannot run there."""
    if place and place.startswith("s3://"):
        storage = recipe.runtime.storage.model_copy(update={"url": place})
        runtime = recipe.runtime.model_copy(update={"storage": storage})
        recipe = recipe.model_copy(update={"runtime": runtime})
    try:
        validate_recipe(recipe)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _validate_method(method: str) -> None:
    if method == "pbt":
        raise UserError(
            "--method: 'pbt': population based training copies weights from trial to trial "
            "through Ray Tune's checkpoints, which runs of Ray Train do not use: it would change "
            f"nothing; allowed: {', '.join(METHODS)}; choose --method asha"
        )
    if method not in METHODS:
        raise UserError(unknown("--method", method, METHODS, "method"))
    if method == "optuna" and find_spec("optuna") is None:
        raise UserError(
            "--method: optuna is not installed; allowed: asha without it; run `pip install "
            "'flash-ray[search]'`, or choose --method asha"
        )


def _store(recipe: Recipe, place: str | None, out: Path) -> AbstractContextManager[Store]:
    storage = recipe.runtime.storage
    if place is None:
        place = str(out / "store") if storage.url == "embedded" else storage.url
    return open_store(place, storage.endpoint, create=True)


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
