"""Scores one model on one bench: a student that was downloaded, or the teacher."""

from pathlib import Path
from typing import Any

from flash_ray.console import Steps
from flash_ray.distill.connect import connected
from flash_ray.evaluation import ways
from flash_ray.evaluation.commands import read_manifest
from flash_ray.evaluation.contest import model_result
from flash_ray.evaluation.produce import hold_contests
from flash_ray.recipe import Recipe


def evaluate_model(
    model: str,
    folder: Path | None,
    recipe: Recipe,
    bench: str,
    per_category: int,
    steps: Steps,
) -> dict[str, Any]:
    """Scores the student in `folder`, or, without one, the recipe's `teacher` or `teacher-at-4`."""
    with connected(recipe):
        backbone = ways.load_base(recipe)
        if folder:
            transformer = backbone.load_transformer(folder)
            contenders = [ways.student(transformer, read_manifest(folder).sigmas)]
        else:
            of_teacher = {"teacher": ways.teacher, "teacher-at-4": ways.teacher_at_4}
            contenders = of_teacher[model](backbone, recipe.teaching)
        contests = hold_contests(backbone, {model: contenders}, per_category, steps, [bench])
    return {
        "model": model,
        "bench": bench,
        "cases_per_category": per_category,
        "recipe_digest": recipe.digest,
        **model_result(contests, model),
    }
