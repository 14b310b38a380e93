"""The demo: distills the miniature on this machine and shows the student beside its teacher."""

import json
import time
from pathlib import Path
from typing import Any

from flash_ray.cluster.session import run_session
from flash_ray.evaluation import sample
from flash_ray.evaluation.compare import Comparison, differences, model_result
from flash_ray.evaluation.figures import save_grid
from flash_ray.evaluation.report import write_report
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.produce import (
    compare_all,
    distil_and_publish,
)


def run_demo(
    recipe: Recipe, store: Store, out: Path, per_category: int, steps: Steps, started: float
) -> dict[str, Any]:
    """Distills, publishes, compares; leaves result.json, report.html, grid.png and the student.

    Args:
        started: when the command was, by `time.monotonic`.

    Returns:
        what result.json holds.
    """
    with run_session(recipe):
        made = distil_and_publish(recipe, store, recipe.name, False, steps)
        trained = time.monotonic()
        comparisons = _compare(recipe, store, out / "student", per_category, steps)
    ended = time.monotonic()
    result = {
        **{name: model_result(comparisons, name) for name in comparisons["t2i"].answers},
        "student_and_teacher": differences(comparisons, "student", "teacher"),
        "student_and_teacher_at_4": differences(comparisons, "student", "teacher_at_4"),
        "cases_per_category": per_category,
        "seconds": {
            "train": trained - started,
            "evaluate": ended - trained,
            "total": ended - started,
        },
        "published": made.url,
        "recipe_digest": recipe.digest,
    }
    save_grid(list(comparisons.values()), out / "grid.png")
    write_report(out / "report.html", recipe, result, comparisons, made.history)
    (out / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False))
    return result


def _compare(
    recipe: Recipe, store: Store, folder: Path, per_category: int, steps: Steps
) -> dict[str, Comparison]:
    """The comparisons of the student, as published and downloaded again, and its teacher."""
    published = read_student(store, recipe.name)
    load_student(store, recipe.name, folder)
    backbone = sample.load_base(recipe)
    models = {
        "teacher": sample.teacher(backbone, recipe.teacher_defaults),
        "teacher_at_4": sample.teacher_at_4(backbone, recipe.teacher_defaults),
        "student": [sample.student(backbone.load_transformer(folder), published.sigmas)],
    }
    return compare_all(backbone, models, per_category, steps)
