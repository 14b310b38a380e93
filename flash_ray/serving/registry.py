"""Which models can be asked: the teacher, published students of its base, and aliases of them."""

import asyncio
import json
import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from flash_ray.miniature.benchmark import BENCHES
from flash_ray.models.loading import base_digest, resolve_base
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.schema import sigma_schedule
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import (
    CorruptManifest,
    Student,
    read_aliases,
    read_student,
    student_names,
)

logger = logging.getLogger("ray.serve")

TEACHER = "teacher"
TEACHER_STEPS = 40


@dataclass(frozen=True)
class ServedModel:
    """A model that can be asked, and how it is sampled.

    Args:
        id: what requests call it: a student's published name, an alias, or `teacher`.
        student: the published name, None for the teacher.
        digest: 16 hex digits of the weights' content: equal digests draw equal pictures.
        sigmas: descending in (0, 1], without the terminal 0.
        shift: time shift of the sigmas when a request asks for another number of steps.
        guidance: classifier-free guidance scale; 1 asks the transformer once a step.
        scores: of the benches when it was published, or when the base was made, by bench, and
            `cases_per_category`; None if there are none.
        created: seconds since 1970.
    """

    id: str
    kind: Literal["student", "teacher"]
    student: str | None
    base: str
    digest: str
    sigmas: tuple[float, ...]
    shift: float
    guidance: float
    rescale: bool
    scores: dict[str, Any] | None
    created: int

    def sigmas_for(self, steps: int | None) -> tuple[float, ...]:
        """The model's own sigmas, or evenly spaced and shifted ones for another number of steps."""
        if steps is None or steps == len(self.sigmas):
            return self.sigmas
        return tuple(sigma_schedule(steps, self.shift))

    def evaluations(self, steps: int | None = None) -> int:
        """Evaluations of the transformer for one picture."""
        return len(self.sigmas_for(steps)) * (1 if self.guidance == 1.0 else 2)


def teacher_of(recipe: Recipe) -> ServedModel:
    """The recipe's base in 40 evenly spaced steps, guided as its teachers are."""
    return ServedModel(
        id=TEACHER,
        kind="teacher",
        student=None,
        base=recipe.base,
        digest=base_digest(recipe.base),
        sigmas=tuple(sigma_schedule(TEACHER_STEPS)),
        shift=1.0,
        guidance=recipe.teacher_defaults.guidance_scale,
        rescale=recipe.teacher_defaults.guidance_rescale,
        scores=_base_scores(recipe),
        created=0,
    )


def _base_scores(recipe: Recipe) -> dict[str, Any] | None:
    """What the base's scores.json says of the teacher, in the shape of a student's scores.

    None without that file, or if the recipe guides its teachers otherwise than those scored there.
    """
    file = Path(resolve_base(recipe.base)) / "scores.json"
    ours, scored = (
        recipe.teacher_defaults,
        load_recipe("miniature").teacher_defaults,
    )  # as `card.write_card` does
    if not file.is_file() or (ours.guidance_scale, ours.guidance_rescale) != (
        scored.guidance_scale,
        scored.guidance_rescale,
    ):
        return None
    try:
        teacher = json.loads(file.read_bytes())["teacher"]
        categories = [row for bench in BENCHES for row in teacher["categories"][bench].values()]
        return {
            "cases_per_category": min(int(row["cases"]) for row in categories),
            **{bench: float(teacher[bench]) for bench in BENCHES},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s has no scores of a teacher: %r", file, error)
        return None


def model_of(student: Student, name: str | None = None) -> ServedModel:
    """A published student under its own name or an alias."""
    return ServedModel(
        id=name or student.name,
        kind="student",
        student=student.name,
        base=student.base,
        digest=student.folder,
        sigmas=tuple(student.sigmas),
        shift=student.recipe["student"]["shift"],
        guidance=1.0,
        rescale=True,
        scores=student.scores,
        created=int(datetime.fromisoformat(student.created).timestamp()),
    )


class ModelRegistry:
    """The models of one base in one store, listed again after `max_age` seconds.

    Students of other bases are left out: a replica holds one base's encoders. What a published
    name means never changes, so its manifest is read once.
    """

    def __init__(self, recipe: Recipe, store: Store, max_age: float = 2.0):
        self._recipe, self._store, self._max_age = recipe, store, max_age
        self._teacher = teacher_of(recipe)
        self._students: dict[str, Student | None] = {}
        self._models: dict[str, ServedModel] = {}
        self._read = float("-inf")
        self._lock = threading.Lock()

    async def models(self) -> dict[str, ServedModel]:
        """By name: the teacher, then the others in order."""
        if self._old():
            await asyncio.to_thread(self._refresh)
        return self._models

    def _old(self) -> bool:
        return time.monotonic() - self._read >= self._max_age

    def _refresh(self) -> None:
        with self._lock:
            if self._old():  # of many that wait, one reads
                self._list()

    def _list(self) -> None:
        self._students = {
            name: self._students[name] if name in self._students else self._student(name)
            for name in student_names(self._store)
        }
        own = [student for student in self._students.values() if student]
        students = {s.name: s for s in own if s.base == self._recipe.base and s.name != TEACHER}
        named = [model_of(student) for student in students.values()]
        for alias, name in read_aliases(self._store).items():
            if name in students and alias not in students:
                named.append(model_of(students[name], alias))
        self._models = {TEACHER: self._teacher} | {
            model.id: model for model in sorted(named, key=lambda model: model.id)
        }
        self._read = time.monotonic()

    def _student(self, name: str) -> Student | None:
        """The student; None, and a line in the log, if its manifest is corrupt: others are not."""
        try:
            return read_student(self._store, name)
        except CorruptManifest as error:
            logger.warning("%s", error)
            return None
