"""Runs a study's trials by Ray Tune; those that are finished are not repeated."""

import json
import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.queue import Queue

from flash_ray.backbones.process import one_process, thread_limits
from flash_ray.checkpoints.storage import Store
from flash_ray.console import Steps
from flash_ray.data.encode import prepare
from flash_ray.distill.cluster import cluster_needs
from flash_ray.distill.connect import connected_with, is_job
from flash_ray.distill.run import listening
from flash_ray.errors import UserError
from flash_ray.evaluation.questions import Questions, encode_questions
from flash_ray.evaluation.small_bench import CASES
from flash_ray.evaluation.ways import load_base
from flash_ray.recipe import Recipe
from flash_ray.studies.plan import Trial
from flash_ray.studies.records import PICTURES, PROGRESS, read_records, write_record
from flash_ray.studies.trial import forget_run, run_trial
from flash_ray.teachers.roster import Roster, all_teachers, hire

RETRIES = 2  # of a trial that failed, each from its last checkpoint


@dataclass(frozen=True)
class Shared:
    """What all trials of a study use."""

    store: Store
    questions: Questions
    small: Questions | None
    roster: Roster | None
    live: Queue


def run_trials(
    trials: Sequence[Trial], store: Store, out: Path, at_once: int | None, steps: Steps
) -> dict[str, str]:
    """Runs the trials that have no record in OUT, and writes their records and pictures there.

    Args:
        at_once: how many run at the same time; None: as many as there is room for.

    Returns:
        The reasons of trials that failed more than `RETRIES` times, by name.
    """
    done = read_records(out, trials)
    for name in done:
        forget_run(store, name)
    todo = [trial for trial in trials if trial.name not in done]
    steps.say(f"{len(trials)} trials, {len(done)} of them finished")
    if not todo:
        return {}
    recipes = [trial.recipe for trial in todo]
    with connected_with(_needs(recipes, at_once or _fit_locally(recipes[0]))):
        at_once = at_once or _fit(recipes)
        roster = hire(all_teachers(recipes)) if _by_actors(recipes) else None
        live = Queue(actor_options={"num_cpus": 0})
        try:
            steps.say(f"encode what is not cached; then {at_once} at once")
            prepare(recipes[0], store, also=recipes[1:])
            shared = Shared(store, *_encoded(todo[0]), roster, live)
            with listening(live, _Listener(out, store, todo, steps)):
                return _tune(todo, shared, at_once)
        finally:
            ray.kill(live.actor)
            if roster:
                roster.stop()


def _tune(trials: Sequence[Trial], shared: Shared, at_once: int) -> dict[str, str]:
    by_name = {trial.name: trial for trial in trials}
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, trials=by_name, shared=shared), {"cpu": 0.01}
    )
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # our records are the log
    with tempfile.TemporaryDirectory(prefix="flash-ray-tune-") as folder:
        results = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(list(by_name))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        ).fit()
    return {
        result.config["trial"]: str(result.error).strip().splitlines()[-1]
        for result in results
        if result.error
    }


def _trainable(config: dict[str, Any], trials: Mapping[str, Trial], shared: Shared) -> None:
    trial = trials[config["trial"]]

    def live(line: dict[str, Any]) -> None:
        shared.live.put_nowait({"trial": trial.name, "line": line})

    record, pictures = run_trial(
        trial, shared.store, shared.questions, shared.small, shared.roster, live
    )
    shared.live.put({"trial": trial.name, "record": record, "pictures": pictures})
    tune.report({"updates": record.updates})


class _Listener:
    """Keeps what the trials send: records and pictures at once, progress every few seconds."""

    def __init__(self, out: Path, store: Store, trials: Sequence[Trial], steps: Steps):
        self._out, self._store, self._steps = out, store, steps
        self._left = {trial.name for trial in trials}
        self._total = len(trials)
        self._progress: dict[str, int] = {}
        self._written = 0.0

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
            self._left.discard(name)
            self._progress.pop(name, None)
            self._steps.say(f"{name}: {record.diverged or _in_words(record.scores)}")
        self._show()

    def _show(self) -> None:
        running = ", ".join(f"{name} {update}" for name, update in self._progress.items())
        self._steps.show("trials", self._total - len(self._left), self._total, running)
        if time.monotonic() - self._written > 5:
            self._written = time.monotonic()
            partial = self._out / f".{PROGRESS}"
            partial.write_text(json.dumps(self._progress))
            partial.replace(self._out / PROGRESS)


def _in_words(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    means = {b: sum(s[0] for s in own.values()) / len(own) for b, own in scores.items()}
    return ", ".join(f"{bench} {mean:.2f}" for bench, mean in means.items())


def _encoded(trial: Trial) -> tuple[Questions, Questions | None]:
    """The trials' questions and those of the curves, encoded where a worker will be."""
    runtime = trial.recipe.runtime
    task = ray.remote(_encode).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"trainer": 1},
        runtime_env={"env_vars": thread_limits(trial.recipe)},
    )
    curves = CASES if runtime.bench_every else None
    return ray.get(task.remote(trial.recipe, trial.benches, curves))


def _encode(
    recipe: Recipe, benches: Mapping[str, int], curves: Mapping[str, int] | None
) -> tuple[Questions, Questions | None]:
    one_process(recipe)
    backbone = load_base(recipe)
    small = encode_questions(recipe, backbone, curves) if curves else None
    return encode_questions(recipe, backbone, benches), small


def _by_actors(recipes: Sequence[Recipe]) -> bool:
    return any(recipe.teaching.placement == "actors" for recipe in recipes)


def _teachers(recipes: Sequence[Recipe]) -> dict[str, float]:
    """Resources of the shared teachers."""
    if not _by_actors(recipes):
        return {}
    together, alone = all_teachers(recipes), recipes[0]
    workers = cluster_needs(alone, hiring=False)
    return {name: need - workers[name] for name, need in cluster_needs(together).items()}


def _needs(recipes: Sequence[Recipe], at_once: int) -> dict[str, float]:
    """Resources of so many trials at once, with their teachers and a CPU for the judge."""
    trial = cluster_needs(recipes[0], hiring=False)
    teachers = _teachers(recipes)
    needs = {name: at_once * need + teachers.get(name, 0) for name, need in trial.items()}
    return {**needs, "CPU": needs["CPU"] + 0.01 * at_once + 1}


def _fit_locally(recipe: Recipe) -> int:
    """As many trials as the machine has cores for."""
    runtime = recipe.runtime
    each = runtime.workers * max(runtime.cpus_per_worker, 0.01)
    return max(1, math.floor((os.cpu_count() or 1) / each))


def _fit(recipes: Sequence[Recipe]) -> int:
    """As many trials as the cluster has room for beside the teachers.

    Raises:
        UserError: not even one fits.
    """
    if not is_job():
        return _fit_locally(recipes[0])
    offered, one = ray.cluster_resources(), _needs(recipes, 1)
    each = {k: v for k, v in cluster_needs(recipes[0], hiring=False).items() if v}
    for name, need in one.items():
        if need > offered.get(name, 0) + 1e-6:
            raise UserError(
                f"study: one trial and the teachers need {need:g} {name}, the cluster has "
                f"{offered.get(name, 0):g}; add nodes with that resource"
            )
    spare = {name: offered.get(name, 0) - one[name] for name in each}
    return 1 + min(math.floor(spare[name] / need + 1e-6) for name, need in each.items())
