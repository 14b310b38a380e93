"""Searches a study's space: Ray Tune stops by ASHA what scores worse than others did so far."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from flash_ray.evaluation.compare import TrainingEval
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import (
    EncodedBenchmark,
    student_sampler,
)
from flash_ray.models.lora_source import with_pins
from flash_ray.recipe import Recipe
from flash_ray.storage.manifest import run_exists
from flash_ray.storage.s3 import Store
from flash_ray.studies.cases import CaseRange
from flash_ray.studies.held_out import compare_held_out
from flash_ray.studies.records import (
    HeldOut,
    SearchPoint,
    SearchResult,
    SearchState,
    SearchTrial,
    write_search,
)
from flash_ray.studies.resources import study_resources
from flash_ray.studies.runner import tune_trials
from flash_ray.studies.space import Combination, run_prefix
from flash_ray.studies.study import Study, changed_recipe
from flash_ray.teachers.launch import TeacherSet
from flash_ray.telemetry.metrics import StudyMetrics
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.divergence import Diverged
from flash_ray.trainer.driver import Callbacks, distill
from flash_ray.trainer.metrics import UpdateMetrics

HALVING = 2  # after 1, 2, 4, ... scores a trial goes on if it is in the better half so far
WORST = 1.0  # the score of a student that was lost: the lowest of a benchmark


class SearchLog(tune.Callback):
    """Listens to Ray Tune, keeps search.json and removes the runs of trials that have ended.

    Args:
        about: the result, as yet without trials.
        combinations: all of the space.
        count: how many of them are tried.
    """

    def __init__(
        self,
        out: Path,
        about: SearchResult,
        combinations: Sequence[Combination],
        count: int,
        store: Store,
        steps: Steps,
    ):
        self._out, self._about, self._combinations = out, about, combinations
        self._count, self._store, self._steps = count, store, steps
        self._trials: dict[int, SearchTrial] = {}
        self._metrics = StudyMetrics(about.study)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a pickled copy of its callbacks, to restore what we begin again

    @property
    def method(self) -> str:
        """'asha': combinations drawn at random; 'optuna': proposed by what scored well."""
        return self._about.method

    @property
    def best(self) -> Combination | None:
        """The combination with the highest last score of those that finished, or None."""
        finished = [trial for trial in self._trials.values() if trial.state == "finished"]
        if not finished:
            return None
        return self._combinations[max(finished, key=lambda trial: trial.last_score).trial]

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Notes a trial; one that is retried keeps its points."""
        combination = self._combinations[trial.config["trial"]]
        begun = SearchTrial(
            trial=combination.number,
            values=combination.values,
            iterations=combination.recipe.training.iterations,
        )
        self._trials.setdefault(combination.number, begun)
        self._write()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Notes a score, or that the student was lost."""
        number = trial.config["trial"]
        if "diverged" in result:
            self._update(number, state="diverged", reason=result["diverged"])
        else:
            point = SearchPoint(
                iteration=result["iteration"],
                score=round(result["score"], 4),
                tasks=result["tasks"],
            )
            points = self._trials[number].points
            earlier = [p for p in points if p.iteration < point.iteration]
            self._update(number, points=(*earlier, point))

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Notes how a trial ended, and removes its run."""
        number = trial.config["trial"]
        ended = self._trials[number]
        if ended.state == "running":
            last = ended.points[-1].iteration if ended.points else None
            is_whole = last is not None and last + self._about.every > ended.iterations
            ended = self._update(number, state="finished" if is_whole else "stopped")
        if ended.state == "finished":
            self._metrics.scored(ended.points[-1].tasks)
            self._write()
        scores = ", ".join(f"{point.score:#.3g}" for point in ended.points)
        self._steps.say(f"{ended.in_words}: {ended.state}, scores {scores or 'none'}")
        self.forget(f"{self._combinations[number].recipe.name}/")

    def close(self, failures: Mapping[int, str]) -> SearchResult:
        """Notes why trials failed; returns what search.json says at the end."""
        for number, reason in failures.items():
            self._update(number, state="failed", reason=reason)
        return self._write()

    def compared(self, held_out: HeldOut) -> SearchResult:
        """Notes what the best combination scores on held-out cases."""
        self._about = self._about.model_copy(update={"held_out": held_out})
        return self._write()

    def forget(self, run: str) -> None:
        """Removes all runs whose names begin so."""
        self._store.delete_all(f"runs/{run}")

    def _update(self, number: int, **changes: Any) -> SearchTrial:
        fields = {**dict(self._trials[number]), **changes}
        self._trials[number] = SearchTrial(**fields)
        self._write()
        return self._trials[number]

    def _write(self) -> SearchResult:
        best, trials = self.best, tuple(self._trials.values())
        update = {"best": best.number if best else None, "trials": trials}
        result = self._about.model_copy(update=update)
        write_search(self._out, result)
        states = Counter(trial.state for trial in trials)
        self._steps.show("trials", len(trials) - states["running"], self._count)
        self._metrics.trials({state: states[state] for state in get_args(SearchState)})
        self._metrics.trials({"waiting": self._count - len(trials)})
        return result


def run_search(
    study: Study,
    combinations: Sequence[Combination],
    count: int,
    store: Store,
    log: SearchLog,
    at_once: int | None,
    steps: Steps,
) -> SearchResult:
    """Tries `count` combinations, which `log` keeps, on the development cases, then the best once
    on the study's cases, beside the study's own recipe; returns what search.json says at the end.

    Args:
        combinations: all of the space.
        at_once: how many run at the same time; None: as many as there is room for.
    """
    recipes = [with_pins(combination.recipe) for combination in combinations]
    own = with_pins(changed_recipe(study, {}, study.seeds[0]))
    own = own.model_copy(update={"name": f"{run_prefix(study)}own"})
    seen = CaseRange(dict.fromkeys(study.cases, study.development))
    cases = [seen, CaseRange(study.cases, study.development)]
    all_recipes = [*recipes, own]
    with study_resources(all_recipes, recipes[0], store, cases, at_once, steps) as resources:
        development, held_out = resources.encoded
        shared = {
            "recipes": recipes,
            "store": store,
            "encoded": development,
            "teacher_set": resources.teacher_set,
        }
        scheduler = ASHAScheduler(
            time_attr="iteration",
            metric="score",
            mode="max",
            max_t=max(recipe.training.iterations for recipe in recipes),
            grace_period=study.curve_every,
            reduction_factor=HALVING,
        )
        searcher, space = _proposals(log.method, combinations, count, study.seeds[0])
        config = tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=count if searcher else 1,
            max_concurrent_trials=resources.at_once,
        )
        result = log.close(tune_trials(_trainable, shared, space, config, [log]))
        if log.best is None:
            return result
        best = recipes[log.best.number].model_copy(update={"name": f"{run_prefix(study)}best"})
        return log.compared(
            compare_held_out(best, own, store, held_out, resources.teacher_set, steps)
        )


def _proposals(
    method: str, combinations: Sequence[Combination], count: int, seed: int
) -> tuple[Searcher | None, dict[str, Any]]:
    """Tune's search algorithm, or for none of it the combinations."""
    if method == "optuna":
        from flash_ray.studies.optuna_search import OptunaProposals

        return OptunaProposals([each.choice for each in combinations], count, seed), {}
    numbers = [combination.number for combination in combinations]
    if count < len(numbers):
        numbers = random.Random(seed).sample(numbers, count)
    return None, {"trial": tune.grid_search(numbers)}


def _trainable(
    config: Mapping[str, Any],
    recipes: Sequence[Recipe],
    store: Store,
    encoded: EncodedBenchmark,
    teacher_set: TeacherSet | None,
) -> None:
    """A trial: it reports a score whenever the student was scored; Tune may end it there."""
    recipe = recipes[config["trial"]]
    iteration = 0

    def live(metrics: UpdateMetrics) -> None:
        nonlocal iteration
        iteration = metrics.iteration
        if scores := metrics.scores:
            mean = sum(scores.values()) / len(scores)
            tune.report({"iteration": iteration, "score": mean, "tasks": scores})

    judge = load_judge(recipe.evaluation.judge_name, "judge")
    scorer = TrainingEval(encoded, judge, student_sampler(recipe.student.rungs))
    folder = Path(tune.get_context().get_trial_dir()) / "student"
    resume = run_exists(store, recipe.name)
    callbacks = Callbacks(evaluate=scorer, live=live)
    try:
        distill(recipe, store, recipe.name, folder, resume, callbacks, teacher_set)
    except Diverged as error:
        tune.report({"iteration": iteration, "score": WORST, "diverged": str(error)})
