"""Searches a study's space: Ray Tune stops by ASHA what scores worse than others did so far."""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from flash_ray.evaluation.sample import EncodedBenchmark
from flash_ray.evaluation.training_eval import TrainingEval
from flash_ray.storage.manifest import run_exists
from flash_ray.storage.s3 import Store
from flash_ray.studies.resources import setting
from flash_ray.studies.runner import tuned
from flash_ray.studies.space import Combination, in_words
from flash_ray.studies.study import Study
from flash_ray.teachers.launch import TeacherSet
from flash_ray.telemetry.metrics import StudyMetrics
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, distill
from flash_ray.workflows.study import SEARCH

STATES = ("running", "finished", "stopped", "diverged", "failed")


class SearchLog(tune.Callback):
    """Listens to Ray Tune; removes the checkpoints of trials that have ended.

    A row: `trial` (the number of its combination), `values`, `state` (`running`; `finished`: it
    has its last score; `stopped`: worse than others so far; `diverged`; `failed`), `points`
    ([updates, score, scores by bench]), `of` updates, and the `reason` of a failure.
    """

    def __init__(
        self,
        out: Path,
        about: Mapping[str, Any],
        found: Sequence[Combination],
        count: int,
        store: Store,
        steps: Steps,
    ):
        self._file, self._about, self._found = out / SEARCH, about, found
        self._count, self._store, self._steps = count, store, steps
        self._rows: dict[int, dict[str, Any]] = {}
        self._metrics = StudyMetrics(about["study"])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a pickled copy of its callbacks, to restore what we begin again

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())

    @property
    def best(self) -> Combination | None:
        """The combination with the highest last score of those that finished, or None."""
        ended = [row for row in self.rows if row["state"] == "finished"]
        if not ended:
            return None
        return self._found[max(ended, key=lambda row: row["points"][-1][1])["trial"]]

    def on_trial_start(self, trial: Any, **_: Any) -> None:
        combination = self._found[trial.config["trial"]]
        row = {
            "trial": combination.number,
            "values": combination.values,
            "state": "running",
            "points": [],
            "of": combination.recipe.training.iterations,
        }
        self._rows.setdefault(combination.number, row)  # a retried trial keeps its points
        self._write()

    def on_trial_result(self, trial: Any, result: dict[str, Any], **_: Any) -> None:
        row = self._rows[trial.config["trial"]]
        if "diverged" in result:
            row |= {"state": "diverged", "reason": result["diverged"]}
        else:
            point = [result["updates"], round(result["score"], 4), result["benches"]]
            row["points"] = [p for p in row["points"] if p[0] < point[0]] + [point]
        self._write()

    def on_trial_complete(self, trial: Any, **_: Any) -> None:
        number = trial.config["trial"]
        row, every = self._rows[number], self._about["every"]
        if row["state"] == "running":
            whole = row["points"] and row["points"][-1][0] + every > row["of"]
            row["state"] = "finished" if whole else "stopped"
        scores = ", ".join(f"{score:.2f}" for _, score, _ in row["points"])
        self._steps.say(f"{in_words(row['values'])}: {row['state']}, scores {scores or 'none'}")
        self.forget(f"{self._found[number].recipe.name}/")
        self._write()

    def close(self, reasons: Mapping[int, str]) -> dict[str, Any]:
        """Notes why trials failed; returns what the file says at the end."""
        for number, why in reasons.items():
            self._rows[number] |= {"state": "failed", "reason": why}
        return self._write()

    def forget(self, run: str) -> None:
        """Removes all runs whose names begin so."""
        for key in list(self._store.list(f"runs/{run}")):
            self._store.delete(key)

    def _write(self) -> dict[str, Any]:
        best = self.best
        content = {
            **self._about,
            "best": best.number if best else None,
            "trials": self.rows,
        }
        partial = self._file.with_name(f".{SEARCH}")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(self._file)
        states = Counter(row["state"] for row in self.rows)
        ended = len(self.rows) - states["running"]
        self._steps.show("trials", ended, self._count)
        self._metrics.trials({state: states[state] for state in STATES})
        self._metrics.trials({"waiting": self._count - len(self.rows)})
        for row in self.rows:
            if row["state"] == "finished":
                self._metrics.scored(row["points"][-1][2])
        return content


HALVING = 2  # after 1, 2, 4, ... scores a trial goes on if it is in the better half so far
WORST = 1.0  # the score of a student that was lost: the lowest of a bench


def run_search(
    study: Study,
    found: Sequence[Combination],
    method: str,
    count: int,
    store: Store,
    log: SearchLog,
    at_once: int | None,
    steps: Steps,
) -> dict[str, Any]:
    """Tries `count` combinations, which `log` keeps; returns what it wrote.

    Args:
        found: all combinations of the space.
        method: 'asha': combinations drawn at random; 'optuna': proposed by what scored well.
        at_once: how many run at the same time; None: as many as there is room for.
    """
    recipes = [one.recipe for one in found]
    with setting(recipes, store, [study.benches], at_once, steps) as ground:
        shared = {
            "recipes": recipes,
            "store": store,
            "questions": ground.questions[0],
            "teacher_set": ground.teacher_set,
        }
        scheduler = ASHAScheduler(
            time_attr="updates",
            metric="score",
            mode="max",
            max_t=max(recipe.training.iterations for recipe in recipes),
            grace_period=study.curve_every,
            reduction_factor=HALVING,
        )
        searcher, space = _proposals(method, found, count, study.seeds[0])
        config = tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=count if searcher else 1,
            max_concurrent_trials=ground.at_once,
        )
        return log.close(tuned(_trainable, shared, space, config, [log]))


def _proposals(
    method: str, found: Sequence[Combination], count: int, seed: int
) -> tuple[Searcher | None, dict[str, Any]]:
    """Tune's search algorithm, or for none of it the combinations."""
    if method == "optuna":
        from flash_ray.studies.optuna_search import OptunaProposals

        return OptunaProposals([one.choice for one in found], count, seed), {}
    numbers = [one.number for one in found]
    if count < len(numbers):
        numbers = random.Random(seed).sample(numbers, count)
    return None, {"trial": tune.grid_search(numbers)}


def _trainable(
    config: Mapping[str, Any],
    recipes: Sequence[Any],
    store: Store,
    questions: EncodedBenchmark,
    teacher_set: TeacherSet | None,
) -> None:
    """A trial: it reports a score whenever the student was benched; Tune may end it there."""
    recipe = recipes[config["trial"]]
    updates = 0

    def live(line: dict[str, Any]) -> None:
        nonlocal updates
        updates = line["update"]
        if bench := line.get("bench"):
            score = sum(bench.values()) / len(bench)
            tune.report({"updates": updates, "score": score, "benches": bench})

    callbacks = Callbacks(TrainingEval(questions, recipe.student.rungs), live)
    folder = tune.get_context().get_trial_dir()
    resume = run_exists(store, recipe.name)
    try:
        distill(
            recipe, store, recipe.name, Path(folder) / "student", resume, callbacks, teacher_set
        )
    except Diverged as error:
        tune.report({"updates": updates, "score": WORST, "diverged": str(error)})
