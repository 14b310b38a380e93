"""The study commands, checks first: what is wrong is known before torch and ray take seconds.

So the modules that need torch or ray are imported where they are used.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from flash_ray.errors import UserError, unknown
from flash_ray.recipe import Recipe, dump_yaml
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import open_store
from flash_ray.storage.outputs import new_folder, validate_folder, write_whole
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.storage.s3 import Store
from flash_ray.studies.quick import quick_study
from flash_ray.studies.records import (
    BEST,
    PROGRESS,
    SEARCH,
    STUDY,
    Begun,
    Claimed,
    SearchResult,
    read_records,
)
from flash_ray.studies.space import combinations, run_prefix
from flash_ray.studies.study import Study, Trial, load_study, plan_trials, value_recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.distill import validate_recipe

METHODS = ("asha", "optuna")
TRIED = 16  # combinations that a search tries, if the space has more


def run(
    name: str, out: Path, quick: bool, at_once: int | None, url: str | None, steps: Steps
) -> list[Trial]:
    """Runs a study's trials that are not finished; returns all of them.

    Args:
        quick: its small version's.
        url: s3://bucket/prefix or the folder of an embedded store; None: the base recipe's
            bucket, or OUT/store.

    Raises:
        UserError: bad input, or trials that failed again and again, by name.
    """
    study = _load(name, quick)
    trials = plan_trials(study)
    for arm, recipe in {trial.arm: trial.recipe for trial in trials}.items():
        _validate_recipe(f"arms.{arm}", recipe, url)
    claim_folder(out, study)
    with _store(trials[0].recipe, url, out) as store:
        from flash_ray.studies.runner import run_trials

        failures = run_trials(trials, store, out, at_once, steps)
    if failures:
        first, reason = next(iter(failures.items()))
        raise UserError(
            f"study: {len(failures)} of {len(trials)} trials failed, {first}: {reason}; the "
            "others are kept: run the command again to repeat those that failed"
        )
    return trials


def search(
    name: str,
    out: Path,
    method: str,
    count: int | None,
    at_once: int | None,
    url: str | None,
    steps: Steps,
) -> SearchResult:
    """Searches a study's space; writes search.json and, of the best recipe, best.yaml.

    Args:
        count: combinations to try; None: all, at most `TRIED`.
        url: as for `run`.

    Returns:
        what search.json says.

    Raises:
        UserError: bad input, a folder whose search is finished, or not one trial that finished.
    """
    checked_method = _validate_method(method)
    study = load_study(name)
    choices = combinations(study)
    if count is None:
        count = min(TRIED, len(choices))
    if count > len(choices):
        raise UserError(
            f"--trials: {count}; the space has {len(choices)} combinations; allowed: 1 to "
            f"{len(choices)}; lower it"
        )
    for path, values in study.space.items():
        for value in values:
            _validate_recipe(f"space.{path}", value_recipe(study, path, value), url)
    claim_folder(out, study)
    if (out / BEST).exists():
        raise UserError(
            f"--out: {out} holds a finished search, {BEST}; allowed: a new folder, or one whose "
            "search was cut off; use its result, or choose another --out"
        )
    with _store(choices[0].recipe, url, out) as store:
        from flash_ray.studies.search import SearchLog, run_search

        about = SearchResult(study=study.name, method=checked_method, every=study.curve_every)
        log = SearchLog(out, about, choices, count, store, steps)
        log.forget(run_prefix(study))  # of a search that was cut off
        result = run_search(study, choices, count, store, log, at_once, steps)
        log.forget(run_prefix(study))  # what a stopped worker wrote at last
    if log.best is None:
        first = result.trials[0]
        raise UserError(
            f"search: no trial finished, {first.in_words}: {first.state}, "
            f"{first.reason or 'no reason known'}; see {out / SEARCH}"
        )
    best = log.best.recipe.model_copy(update={"name": f"{study.name}-best"})
    write_whole(out / BEST, dump_yaml(best))
    return result


@dataclass(frozen=True)
class TrialStatus:
    """How far a trial is.

    Args:
        state: a trial that has `begun` need not be running now.
        iteration: that it has reached, of `iterations`.
        scores: by task, of a finished one.
    """

    trial: str
    state: Literal["waiting", "begun", "finished", "diverged"]
    iteration: int
    iterations: int
    scores: dict[Task, float]


def status(
    name: str, out: Path, quick: bool = False
) -> tuple[list[TrialStatus], list[CorruptRecord]]:
    """How far each of a study's trials is, and what is corrupt in the folder."""
    _, trials = open_folder(name, out, quick)
    records, faults = read_records(out, trials)
    cases, file = trials[0].scored_cases(), out / PROGRESS
    begun: dict[str, int] = {}
    if file.is_file():
        try:
            begun = parse_record(Begun, file.read_bytes(), str(file), "remove it").root
        except CorruptRecord as fault:
            faults.append(fault)
    rows = []
    for trial in trials:
        iterations = trial.recipe.training.iterations
        if record := records.get(trial.name):
            state: Literal["diverged", "finished"] = "diverged" if record.diverged else "finished"
            scores = record.averages(cases)
            rows.append(TrialStatus(trial.name, state, record.iterations, iterations, scores))
        elif trial.name in begun:
            rows.append(TrialStatus(trial.name, "begun", begun[trial.name], iterations, {}))
        else:
            rows.append(TrialStatus(trial.name, "waiting", 0, iterations, {}))
    return rows, faults


def report(
    name: str, out: Path, to: Path | None, quick: bool = False
) -> tuple[Path, list[CorruptRecord]]:
    """Writes the report of the trials that are finished; returns its folder, and what is corrupt in
    the study's and left out.

    Raises:
        UserError: none is.
    """
    from flash_ray.studies.baselines import read_baselines
    from flash_ray.studies.findings import compare_arms
    from flash_ray.studies.report import write_report

    study, trials = open_folder(name, out, quick)
    records, faults = read_records(out, trials)
    if not records:
        raise UserError(
            f"--out: no trial in {out} is finished; see `flash-ray study status {name} --out {out}`"
        )
    cases, to = trials[0].scored_cases(), to or out / "report"
    _validate_report(to)
    baselines, corrupt = read_baselines(trials[0], out)
    faults += corrupt
    findings = compare_arms(study, cases, trials, records, baselines)
    with new_folder(to) as folder:
        faults += write_report(name, findings, cases, out, folder)
    return to, faults


def _validate_report(to: Path) -> None:
    """Raises UserError if a report cannot take a folder's place; it may that of an earlier one."""
    from flash_ray.studies.report import CLAIMS, FIGURES, REPORT, TABLES

    validate_folder("--to", to)
    names = {path.name for path in to.iterdir()} if to.exists() else set()
    if foreign := sorted(names - {REPORT, TABLES, CLAIMS, FIGURES}):
        raise UserError(
            f"--to: {to} holds {foreign[0]}, which no report wrote; allowed: a new or empty "
            "folder, or that of an earlier report; choose another --to"
        )


def open_folder(name: str, out: Path, quick: bool = False) -> tuple[Study, list[Trial]]:
    """A study and its trials, for a folder that `run` has made.

    Raises:
        UserError: there is no such folder, or it is another study's.
    """
    study = _load(name, quick)
    if not (out / STUDY).is_file():
        raise UserError(
            f"--out: no study in {out}; allowed: the folder that `flash-ray study run {name}` "
            "was given; correct it"
        )
    claim_folder(out, study)
    return study, plan_trials(study)


def claim_folder(out: Path, study: Study) -> None:
    """Makes the folder this study's.

    Raises:
        UserError: it holds anything else.
    """
    if (out / STUDY).is_file():
        cure = f'if it is the folder of this study, write {{"name": "{study.name}"}} into it'
        claim = parse_record(Claimed, (out / STUDY).read_bytes(), f"--out: {out / STUDY}", cure)
        if claim.name != study.name:
            raise UserError(
                f"--out: {out} is of study {claim.name}, not {study.name}; choose another folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"--out: {out} holds something that no study wrote; allowed: a new or empty folder, "
            "or that of the same study; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / STUDY, study.model_dump_json(indent=1))


def _load(name: str, quick: bool) -> Study:
    study = load_study(name)
    return quick_study(study) if quick else study


def _validate_recipe(field: str, recipe: Recipe, url: str | None) -> None:
    """Raises UserError, beginning with the field, if the recipe cannot run with that store."""
    if url and url.startswith("s3://"):
        storage = recipe.runtime.storage.model_copy(update={"url": url})
        runtime = recipe.runtime.model_copy(update={"storage": storage})
        recipe = recipe.model_copy(update={"runtime": runtime})
    try:
        validate_recipe(recipe)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error


def _validate_method(method: str) -> Literal["asha", "optuna"]:
    """The method, if it can search here."""
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
    return "optuna" if method == "optuna" else "asha"


def _store(recipe: Recipe, url: str | None, out: Path) -> AbstractContextManager[Store]:
    storage = recipe.runtime.storage
    if url is None:
        url = str(out / "store") if storage.url == "embedded" else storage.url
    return open_store(url, storage.endpoint, create=True)
