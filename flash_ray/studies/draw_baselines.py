"""Has the base answer a study's cases, before its trials run."""

from collections.abc import Sequence
from pathlib import Path

from flash_ray.evaluation import sample
from flash_ray.evaluation.benchmark import Benchmark
from flash_ray.evaluation.compare import Comparison, Drawn, compare, draw_cases
from flash_ray.evaluation.drawing import Weights, drawn_by_actors
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.published import BASELINES
from flash_ray.recipe.schema import Task
from flash_ray.storage.outputs import write_whole
from flash_ray.storage.s3 import Store
from flash_ray.studies.baselines import (
    FILE,
    Baselines,
    BaselineScores,
    digest_of,
    read_baselines,
)
from flash_ray.studies.code import code_digest
from flash_ray.studies.diversity import diversity
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
    is_kept = kept is not None and kept.code == code_digest()
    if is_kept or not trial.recipe.evaluation.baselines:
        return
    recipe = trial.recipe
    samplers = {
        "teacher": [sample.teacher_sampler(recipe)],
        "untrained": sample.untrained_samplers(recipe),
    }
    with drawn_by_actors(recipe, store, dict.fromkeys(samplers, Weights())) as draw:
        drawn, varied = [
            [
                draw_cases(draw, samplers, cases, steps.show)
                for cases in (wanted.of(benchmark) if wanted else {}).values()
            ]
            for wanted in (trial.scored, trial.varied)
        ]
    judge = load_judge(recipe.evaluation.judge_name, "judge")
    compared = [compare(of, judge, recipe) for of in drawn]
    models = {
        name: BaselineScores(
            nfe=max(of.answers[name].sampler.nfe for of in compared),
            scores={of.task: dict(of.answers[name].result.cases) for of in compared},
            diversity=_diversity(name, compared, varied),
        )
        for name in BASELINES
    }
    found = Baselines(digest=digest_of(trial), code=code_digest(), models=models)
    write_whole(out / FILE, found.model_dump_json(indent=1))


def _diversity(
    name: str, compared: Sequence[Comparison], varied: Sequence[Drawn]
) -> dict[Task, dict[str, float]]:
    """Of a model as it is sampled for the scores of each task."""
    samplers = {of.task: of.answers[name].sampler for of in compared}
    drawn = {of.cases[0].task: of for of in varied}
    images = {
        task: next(images for sampler, images in of.attempts[name] if sampler == samplers[task])
        for task, of in drawn.items()
    }
    return diversity({task: of.cases for task, of in drawn.items()}, images)
