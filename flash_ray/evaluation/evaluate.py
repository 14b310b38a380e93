"""Scores one model on one bench: a student that was downloaded, or the teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_ray.console import Steps
from flash_ray.distill.connect import connected
from flash_ray.evaluation import ways
from flash_ray.evaluation.commands import read_manifest
from flash_ray.evaluation.contest import Answers, model_result
from flash_ray.evaluation.judges.base import Judge, judgement
from flash_ray.evaluation.judges.exact import ExactJudge, exact_opinions
from flash_ray.evaluation.produce import hold_contests
from flash_ray.miniature.bench import Case
from flash_ray.recipe import Recipe


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
    with connected(recipe):
        backbone = ways.load_base(recipe)
        if folder:
            transformer = backbone.load_transformer(folder)
            contenders = [ways.student(transformer, read_manifest(folder).sigmas)]
        else:
            of_teacher = {"teacher": ways.teacher, "teacher-at-4": ways.teacher_at_4}
            contenders = of_teacher[model](backbone, recipe.teaching)
        contests = hold_contests(backbone, {model: contenders}, per_category, steps, [bench])
    contest = contests[bench]
    return {
        "model": model,
        "bench": bench,
        "cases_per_category": per_category,
        "recipe_digest": recipe.digest,
        **model_result(contests, model),
        "judges": {
            judge.name: _judged(judge, contest.cases, contest.answers[model], steps)
            for judge in judges
        },
    }


def _judged(judge: Judge, cases: Sequence[Case], answers: Answers, steps: Steps) -> dict[str, Any]:
    if isinstance(judge, ExactJudge):  # the contest has asked it already
        opinions = exact_opinions(cases, answers.score)
    else:
        steps.say(f"judge by {judge.name}")
        opinions = judge.judge(cases, answers.pictures_BHW3)
    return judgement(cases, opinions).model_dump(mode="json")
