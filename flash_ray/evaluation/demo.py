"""The demo: distils the miniature on this machine and shows the student beside its teacher."""

import json
import time
from pathlib import Path
from typing import Any

from flash_ray.checkpoints.publish import load_student, read_student
from flash_ray.checkpoints.storage import Store
from flash_ray.console import Steps
from flash_ray.distill.connect import connected
from flash_ray.evaluation import ways
from flash_ray.evaluation.contest import Contest, comparison, model_result
from flash_ray.evaluation.grid import save_grid
from flash_ray.evaluation.produce import (
    distil_and_publish,
    hold_contests,
)
from flash_ray.evaluation.report import write_report
from flash_ray.recipe import Recipe


def run_demo(
    recipe: Recipe, store: Store, out: Path, per_category: int, steps: Steps, started: float
) -> dict[str, Any]:
    """Distils, publishes, compares; leaves result.json, report.html, grid.png and the student.

    Args:
        started: when the command was, by `time.monotonic`.

    Returns:
        what result.json holds.
    """
    with connected(recipe):
        made = distil_and_publish(recipe, store, recipe.name, False, steps)
        trained = time.monotonic()
        contests = _compare(recipe, store, out / "student", per_category, steps)
    ended = time.monotonic()
    result = {
        **{name: model_result(contests, name) for name in contests["t2i"].answers},
        "student_and_teacher": comparison(contests, "student", "teacher"),
        "student_and_teacher_at_4": comparison(contests, "student", "teacher_at_4"),
        "cases_per_category": per_category,
        "seconds": {
            "train": trained - started,
            "evaluate": ended - trained,
            "total": ended - started,
        },
        "published": made.url,
        "recipe_digest": recipe.digest,
    }
    save_grid(list(contests.values()), out / "grid.png")
    write_report(out / "report.html", recipe, result, contests, made.history)
    (out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result


def _compare(
    recipe: Recipe, store: Store, folder: Path, per_category: int, steps: Steps
) -> dict[str, Contest]:
    """The contests of the student, as published and downloaded again, and its teacher."""
    published = read_student(store, recipe.name)
    load_student(store, recipe.name, folder)
    backbone = ways.load_base(recipe)
    contenders = {
        "teacher": ways.teacher(backbone, recipe.teaching),
        "teacher_at_4": ways.teacher_at_4(backbone, recipe.teaching),
        "student": [ways.student(backbone.load_transformer(folder), published.sigmas)],
    }
    return hold_contests(backbone, contenders, per_category, steps)
