"""Runs a study's trials by Ray Tune; those that are finished are not repeated."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.queue import Queue

from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.evaluation.training_eval import CASES
from flash_ray.storage.s3 import Store
from flash_ray.studies.records import PICTURES, PROGRESS, Record, read_records, write_record
from flash_ray.studies.resources import OVERHEAD, setting
from flash_ray.studies.study import Trial
from flash_ray.studies.trial import forget_run, run_trial
from flash_ray.teachers.launch import TeacherSet
from flash_ray.telemetry.metrics import StudyMetrics
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.driver import listening

VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records are the log
    "RAY_AIR_NEW_OUTPUT": "0",  # prints a table, however quiet
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # after Ctrl-C it returns as if all trials had ended
}
RETRIES = 2  # of a trial that failed, each from its last checkpoint


def tuned(
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
    driver = tune.with_resources(tune.with_parameters(trainable, **shared), {"cpu": OVERHEAD})
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
    return {
        result.config["trial"]: str(result.error).strip().splitlines()[-1]
        for result in results
        if result.error
    }


@dataclass(frozen=True)
class Shared:
    """What all trials of a study use."""

    store: Store
    questions: EncodedBenchmark
    small: EncodedBenchmark | None
    teacher_set: TeacherSet | None
    live: Queue


def run_trials(
    trials: Sequence[Trial], store: Store, out: Path, at_once: int | None, steps: Steps
) -> dict[str, str]:
    """Runs the trials that have no record in OUT, and writes their records and pictures there.

    Args:
        at_once: how many run at the same time; None: as many as there is room for.

    Returns:
        Why some trials failed again and again, by name.
    """
    done = read_records(out, trials)
    for name in done:
        forget_run(store, name)
    todo = [trial for trial in trials if trial.name not in done]
    steps.say(f"{len(trials)} trials, {len(done)} of them finished")
    if not todo:
        return {}
    benches = [todo[0].benches, *([CASES] if todo[0].recipe.evaluation.every else [])]
    recipes = [trial.recipe for trial in todo]
    with setting(recipes, store, benches, at_once, steps) as ground:
        questions, *small = ground.questions
        live = Queue(actor_options={"num_cpus": 0})
        try:
            shared = Shared(store, questions, small[0] if small else None, ground.teacher_set, live)
            with listening(live, _Listener(out, store, todo, done, steps)):
                by_name = {trial.name: trial for trial in todo}
                return tuned(
                    _trainable,
                    {"trials": by_name, "shared": shared},
                    {"trial": tune.grid_search(list(by_name))},
                    tune.TuneConfig(max_concurrent_trials=ground.at_once),
                )
        finally:
            ray.kill(live.actor)


def _trainable(config: dict[str, Any], trials: Mapping[str, Trial], shared: Shared) -> None:
    trial = trials[config["trial"]]

    def live(line: dict[str, Any]) -> None:
        shared.live.put_nowait({"trial": trial.name, "line": line})

    record, pictures = run_trial(
        trial, shared.store, shared.questions, shared.small, shared.teacher_set, live
    )
    shared.live.put({"trial": trial.name, "record": record, "pictures": pictures})
    tune.report({"updates": record.updates})


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
        self._left = {trial.name for trial in trials}
        self._total = len(trials)
        self._records = list(done.values())
        self._progress: dict[str, int] = {}
        self._written = 0.0
        self._metrics = StudyMetrics(trials[0].study)
        self._measure()

    def __call__(self, message: dict[str, Any]) -> None:
        name = message["trial"]
        if "line" in message:
            self._progress[name] = message["line"]["update"]
        else:
            record, pictures = message["record"], message["pictures"]
            if pictures is not None:
                (self._out / PICTURES).mkdir(parents=True, exist_ok=True)
                (self._out / PICTURES / f"{name}.webp").write_bytes(pictures)
            write_record(self._out, record)
            forget_run(self._store, name)
            self._records.append(record)
            self._left.discard(name)
            self._progress.pop(name, None)
            self._steps.say(f"{name}: {record.diverged or _in_words(record.scores)}")
        self._show()
        self._measure()

    def _measure(self) -> None:
        diverged = sum(record.diverged is not None for record in self._records)
        self._metrics.trials(
            {
                "waiting": len(self._left) - len(self._progress),
                "running": len(self._progress),
                "finished": len(self._records) - diverged,
                "diverged": diverged,
            }
        )
        for record in self._records:
            self._metrics.scored(_means(record.scores))

    def _show(self) -> None:
        running = ", ".join(f"{name} {update}" for name, update in self._progress.items())
        self._steps.show("trials", self._total - len(self._left), self._total, running)
        if time.monotonic() - self._written > 5:
            self._written = time.monotonic()
            partial = self._out / f".{PROGRESS}"
            partial.write_text(json.dumps(self._progress))
            partial.replace(self._out / PROGRESS)


def _in_words(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    return ", ".join(f"{bench} {mean:.2f}" for bench, mean in _means(scores).items())


def _means(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Over the cases, by bench."""
    return {bench: sum(s[0] for s in own.values()) / len(own) for bench, own in scores.items()}
