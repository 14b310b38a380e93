"""Scores one model on one bench: a student that was downloaded, or the teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_ray.cluster.session import run_session
from flash_ray.evaluation import sample
from flash_ray.evaluation.compare import Answers, model_result
from flash_ray.evaluation.judges.base import Judge, judge_result
from flash_ray.evaluation.judges.exact import ExactJudge, exact_opinions
from flash_ray.miniature.benchmark import Case
from flash_ray.recipe import Recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.commands import read_manifest
from flash_ray.workflows.produce import compare_all


def evaluate_model(
    model: str,
    folder: Path | None,
    recipe: Recipe,
    bench: str,
    per_category: int,
    judges: Sequence[Judge],
    steps: Steps,
) -> dict[str, Any]:
    """Scores the student in `folder`, or, without one, the recipe's `teacher` or `teacher-at-4`.

    Raises:
        UserError: the base or a judge cannot be used.
    """
    with run_session(recipe):
        backbone = sample.load_base(recipe)
        if folder:
            transformer = backbone.load_transformer(folder)
            models = [sample.student(transformer, read_manifest(folder).sigmas)]
        else:
            of_teacher = {"teacher": sample.teacher, "teacher-at-4": sample.teacher_at_4}
            models = of_teacher[model](backbone, recipe.teacher_defaults)
        comparisons = compare_all(backbone, {model: models}, per_category, steps, [bench])
    comparison = comparisons[bench]
    return {
        "model": model,
        "bench": bench,
        "cases_per_category": per_category,
        "recipe_digest": recipe.digest,
        **model_result(comparisons, model),
        "judges": {
            judge.name: _judged(judge, comparison.cases, comparison.answers[model], steps)
            for judge in judges
        },
    }


def _judged(judge: Judge, cases: Sequence[Case], answers: Answers, steps: Steps) -> dict[str, Any]:
    if isinstance(judge, ExactJudge):  # the comparison has asked it already
        opinions = exact_opinions(cases, answers.score)
    else:
        steps.say(f"judge by {judge.name}")
        opinions = judge.judge(cases, answers.pictures_BHW3)
    return judge_result(cases, opinions).model_dump(mode="json")
