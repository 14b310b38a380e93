"""Searches a study's space: Ray Tune stops by ASHA what scores worse than others did so far."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from flash_ray.checkpoints.resume import run_exists
from flash_ray.checkpoints.storage import Store
from flash_ray.console import Steps
from flash_ray.distill.monitor import Diverged
from flash_ray.distill.run import Hooks, distill
from flash_ray.evaluation.questions import Questions
from flash_ray.evaluation.small_bench import SmallBench
from flash_ray.studies.schema import Study
from flash_ray.studies.search_log import SearchLog
from flash_ray.studies.setting import setting
from flash_ray.studies.space import Combination
from flash_ray.studies.tuning import tuned
from flash_ray.teachers.roster import Roster

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
            "roster": ground.roster,
        }
        scheduler = ASHAScheduler(
            time_attr="updates",
            metric="score",
            mode="max",
            max_t=max(recipe.optimisation.updates for recipe in recipes),
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
    questions: Questions,
    roster: Roster | None,
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

    hooks = Hooks(SmallBench(questions, recipe.student.rungs), live)
    folder = tune.get_context().get_trial_dir()
    resume = run_exists(store, recipe.name)
    try:
        distill(recipe, store, recipe.name, Path(folder) / "student", resume, hooks, roster)
    except Diverged as error:
        tune.report({"updates": updates, "score": WORST, "diverged": str(error)})
