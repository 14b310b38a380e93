"""Has the base answer a study's cases, before its trials run."""

from collections.abc import Sequence
from pathlib import Path

from flash_ray.evaluation import sample
from flash_ray.evaluation.benchmark import Benchmark
from flash_ray.evaluation.compare import compare, draw_cases
from flash_ray.evaluation.drawing import Weights, drawn_by_actors
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.published import BASELINES
from flash_ray.storage.outputs import write_whole
from flash_ray.storage.s3 import Store
from flash_ray.studies.baselines import (
    FILE,
    Baselines,
    BaselineScores,
    digest_of,
    read_baselines,
)
from flash_ray.studies.study import Trial
from flash_ray.telemetry.progress import Steps


def keep_baselines(
    trials: Sequence[Trial], benchmark: Benchmark, store: Store, out: Path, steps: Steps
) -> None:
    """Scores teacher and untrained base with the first arm's recipe and writes baselines.json,
    unless it is there, or the recipe wants none.

    Args:
        benchmark: with its pictures to edit.
    """
    trial = trials[0]
    kept, faults = read_baselines(trial, out)
    for fault in faults:
        steps.say(str(fault))
    if kept or not trial.recipe.evaluation.baselines:
        return
    recipe = trial.recipe
    samplers = {
        "teacher": [sample.teacher_sampler(recipe)],
        "untrained": sample.untrained_samplers(recipe),
    }
    with drawn_by_actors(recipe, store, dict.fromkeys(samplers, Weights())) as draw:
        drawn = [
            draw_cases(draw, samplers, benchmark.cases(task, count), steps.show)
            for task, count in trial.cases.items()
        ]
    judge = load_judge(recipe.evaluation.judge_name, "judge")
    compared = [compare(of, judge, recipe) for of in drawn]
    models = {
        name: BaselineScores(
            nfe=max(of.answers[name].sampler.nfe for of in compared),
            scores={of.task: dict(of.answers[name].result.cases) for of in compared},
        )
        for name in BASELINES
    }
    found = Baselines(digest=digest_of(trial), models=models)
    write_whole(out / FILE, found.model_dump_json(indent=1))
