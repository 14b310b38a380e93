"""Scores one model on one bench: a student, published or downloaded, or the teacher."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flash_ray.backbones.base import Backbone
from flash_ray.backbones.load import resolve_base
from flash_ray.checkpoints.files import verify
from flash_ray.checkpoints.open import open_store
from flash_ray.checkpoints.publish import MANIFEST, Student, load_student
from flash_ray.console import Steps
from flash_ray.distill.connect import connected
from flash_ray.errors import UserError
from flash_ray.evaluation import ways
from flash_ray.evaluation.contest import model_result
from flash_ray.evaluation.produce import hold_contests
from flash_ray.recipe import Recipe, parse_recipe

TEACHERS = {"teacher": ways.teacher, "teacher-at-4": ways.teacher_at_4}


def evaluate(
    model: str, recipe: Recipe, place: str | None, bench: str, per_category: int, steps: Steps
) -> dict[str, Any]:
    """Scores `model`.

    Args:
        model: `teacher` or `teacher-at-4` (the recipe's), a student's name in the store, or, with
            a / in it, the folder of a student (model.json).
        recipe: of the teachers; a student brings its own.
        place: the store, as `open_store` takes it.

    Raises:
        UserError: there is no such model, or it is corrupt.
    """
    with _found(model, recipe, place) as (its_recipe, student):
        resolve_base(its_recipe.base)
        with connected(its_recipe):
            backbone = ways.load_base(its_recipe)
            contenders = {model: _ways(model, its_recipe, backbone, student)}
            contests = hold_contests(backbone, contenders, per_category, steps, [bench])
    return {
        "model": model,
        "bench": bench,
        "cases_per_category": per_category,
        "recipe_digest": its_recipe.digest,
        **model_result(contests, model),
    }


@dataclass(frozen=True)
class _Local:
    """A verified student on this machine."""

    folder: Path
    manifest: Student


@contextmanager
def _found(model: str, recipe: Recipe, place: str | None) -> Iterator[tuple[Recipe, _Local | None]]:
    """The recipe to evaluate by, and the student if it is one."""
    if model in TEACHERS:
        yield recipe, None
    elif "/" in model:
        student = _read(Path(model))
        verify(student.folder, student.manifest.files, model)
        yield parse_recipe(student.manifest.recipe), student
    else:
        with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
            with open_store(place) as store:
                student = _read(load_student(store, model, Path(name) / "student"))
            yield parse_recipe(student.manifest.recipe), student


def _read(folder: Path) -> _Local:
    try:
        text = (folder / MANIFEST).read_text()
        return _Local(folder, Student.model_validate_json(text))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is corrupt"
        raise UserError(
            f"MODEL: {folder}/{MANIFEST} {reason}; allowed: the folder of a downloaded student, "
            f"a published student's name, {' or '.join(TEACHERS)}; see `flash-ray models`"
        ) from error


def _ways(model: str, recipe: Recipe, backbone: Backbone, student: _Local | None) -> list[ways.Way]:
    if student:
        transformer = backbone.load_transformer(student.folder)
        return [ways.student(transformer, student.manifest.sigmas)]
    return TEACHERS[model](backbone, recipe.teachers[0])
