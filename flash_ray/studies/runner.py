"""Runs a study's trials by Ray Tune; those that are finished are not repeated."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.util.queue import Queue

from flash_ray.errors import UserError
from flash_ray.models.lora_source import with_pins
from flash_ray.recipe.schema import Task
from flash_ray.storage.outputs import write_whole
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.s3 import Store
from flash_ray.studies.cases import CaseRange
from flash_ray.studies.draw_baselines import keep_baselines
from flash_ray.studies.records import (
    PICTURES,
    PROGRESS,
    OtherCode,
    Record,
    append_record,
    read_records,
)
from flash_ray.studies.resources import DRIVER_CPUS, study_resources
from flash_ray.studies.study import Trial
from flash_ray.studies.trial import EncodedCases, forget_run, run_trial
from flash_ray.teachers.launch import TeacherSet
from flash_ray.telemetry.metrics import StudyMetrics
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.driver import listening
from flash_ray.trainer.metrics import UpdateMetrics

VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the log
    "RAY_AIR_NEW_OUTPUT": "0",  # prints a table, however quiet
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # after Ctrl-C it returns as if all trials had ended
}
RETRIES = 2  # of a trial that failed, each from its last checkpoint
PROGRESS_S = 5.0  # seconds between writes of progress.json


def tune_trials(
    trainable: Callable[..., None],
    shared: Mapping[str, Any],
    space: Mapping[str, Any],
    config: tune.TuneConfig,
    callbacks: Sequence[tune.Callback] = (),
) -> dict[Any, str]:
    """Runs trials; returns why some failed more than `RETRIES` times, by their "trial".

    Args:
        trainable: called with {"trial": ...} and what is shared.
        space: Tune's, if the configuration's search algorithm does not propose "trial".
    """
    os.environ.update(VARIABLES)
    driver = tune.with_resources(tune.with_parameters(trainable, **shared), {"cpu": DRIVER_CPUS})
    with tempfile.TemporaryDirectory(prefix="flash-ray-tune-") as folder:
        results = tune.Tuner(
            driver,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=list(callbacks),
                verbose=0,
            ),
        ).fit()
    failures: dict[Any, str] = {}
    for index in range(len(results)):
        result = results[index]
        if result.error and result.config:
            failures[result.config["trial"]] = str(result.error).strip().splitlines()[-1]
    return failures


@dataclass(frozen=True)
class Shared:
    """What all trials of a study use."""

    store: Store
    encoded: EncodedCases
    teacher_set: TeacherSet | None
    live: Queue


@dataclass(frozen=True)
class Progress:
    """A trial has made an update."""

    trial: str
    iteration: int


@dataclass(frozen=True)
class Finished:
    """A trial has ended; `pictures` is None if it diverged."""

    record: Record
    pictures: bytes | None


def run_trials(
    trials: Sequence[Trial], store: Store, out: Path, at_once: int | None, steps: Steps
) -> dict[str, str]:
    """Runs the trials that have no record in OUT, and writes their records and pictures there.

    Args:
        at_once: how many run at the same time; None: as many as there is room for.

    Returns:
        Why some trials failed again and again, by name.

    Raises:
        UserError: records in OUT are of other code.
    """
    done, faults = read_records(out, trials)
    _validate_code(faults)
    for fault in faults:
        steps.say(str(fault))
    for name in done:
        forget_run(store, name)
    waiting = {
        trial.name: replace(trial, recipe=with_pins(trial.recipe))
        for trial in trials
        if trial.name not in done
    }
    steps.say(f"{len(trials)} trials, {len(done)} of them finished")
    if not waiting:
        return {}
    recipes = [trial.recipe for trial in waiting.values()]
    ranges = _ranges(trials[0])
    first = with_pins(trials[0].recipe)
    cases = list(ranges.values())
    with study_resources(recipes, first, store, cases, at_once, steps) as resources:
        keep_baselines(trials, resources.benchmark, store, out, steps)
        encoded = EncodedCases(**dict(zip(ranges, resources.encoded, strict=True)))
        live = Queue(actor_options={"num_cpus": 0})
        try:
            shared = Shared(store, encoded, resources.teacher_set, live)
            with listening(live, _Listener(out, store, trials, done, steps)):
                failures = tune_trials(
                    _trainable,
                    {"trials": waiting, "shared": shared},
                    {"trial": tune.grid_search(list(waiting))},
                    tune.TuneConfig(max_concurrent_trials=resources.at_once),
                )
        finally:
            live.shutdown(force=True)
    if not failures:
        (out / PROGRESS).unlink(missing_ok=True)
    return failures


def _validate_code(faults: Sequence[CorruptRecord]) -> None:
    """Raises UserError if records are of other code, to which none of this can be added."""
    for fault in faults:
        if isinstance(fault, OtherCode):
            raise UserError(
                f"{fault.where}: {fault.reason}: their numbers do not compare; choose another "
                "--out, or go on with the version of flash_ray that made them"
            )


def _ranges(trial: Trial) -> dict[str, CaseRange]:
    """Which cases the trials draw, by their name in `EncodedCases`."""
    ranges, evaluation = {"scored": trial.scored}, trial.recipe.evaluation
    if evaluation.every:
        curve: dict[Task, int] = {"t2i": evaluation.cases.t2i, "edit": evaluation.cases.edit}
        ranges["curve"] = CaseRange(curve)
    if trial.varied:
        ranges["varied"] = trial.varied
    return ranges


def _trainable(config: dict[str, Any], trials: Mapping[str, Trial], shared: Shared) -> None:
    trial = trials[config["trial"]]

    def live(metrics: UpdateMetrics) -> None:
        shared.live.put_nowait(Progress(trial.name, metrics.iteration))

    record, pictures = run_trial(trial, shared.store, shared.encoded, shared.teacher_set, live)
    shared.live.put(Finished(record, pictures))
    tune.report({"iterations": record.iterations})


class _Listener:
    """Keeps what the trials send: records and pictures at once, progress every few seconds."""

    def __init__(
        self,
        out: Path,
        store: Store,
        trials: Sequence[Trial],
        done: Mapping[str, Record],
        steps: Steps,
    ):
        self._out, self._store, self._steps = out, store, steps
        self._total = len(trials)
        self._records = dict(done)
        self._cases = trials[0].scored_cases()
        self._iterations: dict[str, int] = {}  # of the trials that are running
        self._written = 0.0
        self._metrics = StudyMetrics(trials[0].study)
        for record in done.values():
            self._metrics.scored(record.averages(self._cases))
        self._measure()

    def __call__(self, message: Progress | Finished) -> None:
        if isinstance(message, Progress):
            self._iterations[message.trial] = message.iteration
        else:
            self._keep(message.record, message.pictures)
        self._show()
        self._measure()

    def _keep(self, record: Record, pictures: bytes | None) -> None:
        name = record.trial
        if pictures is not None:
            (self._out / PICTURES).mkdir(parents=True, exist_ok=True)
            write_whole(self._out / PICTURES / f"{name}.webp", pictures)
        append_record(self._out, record)
        forget_run(self._store, name)
        self._records[name] = record
        self._iterations.pop(name, None)
        scores = record.averages(self._cases)
        self._metrics.scored(scores)
        words = ", ".join(f"{task} {score:#.3g}" for task, score in scores.items())
        self._steps.say(f"{name}: {record.diverged or words}")

    def _measure(self) -> None:
        diverged = sum(record.diverged is not None for record in self._records.values())
        running = len(self._iterations)
        self._metrics.trials(
            {
                "waiting": self._total - len(self._records) - running,
                "running": running,
                "finished": len(self._records) - diverged,
                "diverged": diverged,
            }
        )

    def _show(self) -> None:
        running = ", ".join(f"{name} {count}" for name, count in self._iterations.items())
        self._steps.show("trials", len(self._records), self._total, running)
        if time.monotonic() - self._written > PROGRESS_S:
            self._written = time.monotonic()
            partial = self._out / f".{PROGRESS}"
            partial.write_text(json.dumps(self._iterations))
            partial.replace(self._out / PROGRESS)
