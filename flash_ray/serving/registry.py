"""Which models a server has: the teacher, published students of its base, and aliases of them."""

import asyncio
import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from flash_ray.evaluation.sample import teacher_sampler
from flash_ray.models.loading import base_digest, is_same_base, resolve_base
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Section, sigma_schedule
from flash_ray.serving.benchmark import ServedBenchmark
from flash_ray.storage.records import (
    CorruptRecord,
    Digest,
    FaultLog,
    Name,
    Seconds,
    Text,
    read_each,
)
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import (
    Student,
    descending,
    find_student,
    read_aliases,
    student_versions,
)

logger = logging.getLogger("ray.serve")

TEACHER = "teacher"


def _can_be_sampled(sampler: SamplerConfig) -> SamplerConfig:
    if not 1 <= len(sampler.sigmas) <= 1000:
        raise ValueError(f"{len(sampler.sigmas)} sigmas; allowed: 1 to 1000")
    descending(sampler.sigmas)
    if not 0 < sampler.sigmas[-1] <= sampler.sigmas[0] <= 1:
        raise ValueError("sigmas outside (0, 1]")
    if not 1 <= sampler.guidance_scale <= 100:
        raise ValueError(f"guidance_scale {sampler.guidance_scale}; allowed: 1 to 100")
    return sampler


class ServedModel(Section):
    """A model that a server has, and how it is sampled.

    Args:
        id: what requests call it: a student's published name, an alias, or `teacher`.
        student: the published name, None for the teacher.
        digest: 16 hex digits of the weights' content: equal digests draw equal pictures.
        sampler: its own; at guidance scale 1 it asks the transformer once a step.
        shift: time shift of the sigmas when a request asks for another number of steps.
        scores: on the benchmark that is served, None if it has none.
        created: seconds since 1970.
    """

    id: Name
    kind: Literal["student", "teacher"]
    student: Name | None
    base: Text
    digest: Digest
    sampler: Annotated[SamplerConfig, AfterValidator(_can_be_sampled)]
    shift: float = Field(gt=0, le=100)
    scores: PublishedScores | None = None
    created: Seconds

    @property
    def identity(self) -> str:
        """16 hex digits of what draws, whatever it is called: equal ones draw equal pictures."""
        text = json.dumps([self.digest, self.base, asdict(self.sampler)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def sampler_for(self, steps: int | None) -> SamplerConfig:
        """The model's own sampler, or one with evenly spaced, shifted sigmas for another number of
        steps."""
        if steps is None or steps == len(self.sampler.sigmas):
            return self.sampler
        return replace(self.sampler, sigmas=tuple(sigma_schedule(steps, self.shift)))


def teacher_of(recipe: Recipe, benchmark: ServedBenchmark | None = None) -> ServedModel:
    """The recipe's base, sampled as evaluations sample a teacher."""
    sampler = teacher_sampler(recipe)
    return ServedModel(
        id=TEACHER,
        kind="teacher",
        student=None,
        base=recipe.base,
        digest=base_digest(recipe.base),
        sampler=sampler,
        shift=1.0,
        scores=_comparable(_base_scores(recipe, sampler), benchmark),
        created=0,
    )


def model_of(
    student: Student, name: str | None = None, benchmark: ServedBenchmark | None = None
) -> ServedModel:
    """A published student under its own name or an alias."""
    return ServedModel(
        id=name or student.name,
        kind="student",
        student=student.name,
        base=student.base,
        digest=student.folder,
        sampler=SamplerConfig(tuple(student.sigmas)),
        shift=student.recipe["student"]["timestep_shift"],
        scores=_comparable(student.scores, benchmark),
        created=max(0, int(datetime.fromisoformat(student.created).timestamp())),
    )


class _TaskScores(BaseModel):
    t2i: float | None = None
    edit: float | None = None


class _BaseScores(BaseModel):
    """A base's scores.json: what the base scored as a teacher, and how it was sampled."""

    benchmark: str
    digest: str
    judge: str
    scale: str
    cases_per_category: int = Field(ge=1)
    guidance_scale: float
    guidance_rescale: bool
    teacher: _TaskScores


def _base_scores(recipe: Recipe, sampler: SamplerConfig) -> PublishedScores | None:
    """What the base's scores.json says of the teacher; None without that file, or if the recipe
    guides its teachers otherwise than the one that was scored."""
    file = Path(resolve_base(recipe.base)) / "scores.json"
    if not file.is_file():
        return None
    try:
        scored = _BaseScores.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        logger.warning("%s has no scores of a teacher: %s", file, " ".join(str(error).split()))
        return None
    if (scored.guidance_scale, scored.guidance_rescale) != (
        sampler.guidance_scale,
        sampler.guidance_rescale,
    ):
        return None
    return PublishedScores(
        benchmark=scored.benchmark,
        digest=scored.digest,
        judge=scored.judge,
        scale=scored.scale,
        cases_per_category=scored.cases_per_category,
        tasks=scored.teacher.model_dump(exclude_none=True),
    )


def _comparable(
    scores: PublishedScores | None, benchmark: ServedBenchmark | None
) -> PublishedScores | None:
    """The scores if they are of the benchmark that is served: others say nothing here."""
    if scores is None or benchmark is None:
        return None
    served = (benchmark.name, benchmark.digest)
    return scores if (scores.benchmark, scores.digest) == served else None


class ModelRegistry:
    """The models of one base in one store, listed again after `max_age` seconds.

    Students of other bases are left out: a replica holds one base's encoders. So are records that
    are corrupt, which the log names. A manifest is read again only when its object has changed.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        benchmark: ServedBenchmark | None,
        max_age: float = 2.0,
    ):
        self._recipe, self._store = recipe, store
        self._benchmark, self._max_age = benchmark, max_age
        self._teacher = teacher_of(recipe, benchmark)
        self._students: dict[tuple[str, str], Student] = {}  # by name and version of the manifest
        self._models: dict[str, ServedModel] = {}
        self._faults: dict[str, CorruptRecord] = {}  # by the student's name
        self._log = FaultLog(logger)
        self._listed_at = float("-inf")
        self._lock = threading.Lock()

    async def models(self) -> Mapping[str, ServedModel]:
        """The models by name: the teacher, then the others in order."""
        if self._is_old():
            await asyncio.to_thread(self._refresh)
        return self._models

    def fault(self, name: str) -> CorruptRecord | None:
        """What was wrong with the student of that name when the models were listed last."""
        return self._faults.get(name)

    def _is_old(self) -> bool:
        return time.monotonic() - self._listed_at >= self._max_age

    def _refresh(self) -> None:
        with self._lock:
            if self._is_old():  # of many that wait, one lists
                self._list()

    def _list(self) -> None:
        versions = student_versions(self._store)
        known = {key: self._students[key] for key in versions.items() if key in self._students}
        unread = [name for name, version in versions.items() if (name, version) not in known]
        read, self._faults = read_each(partial(find_student, self._store), unread)
        self._students = known | {(name, versions[name]): of for name, of in read.items()}
        students = {
            student.name: student
            for student in self._students.values()
            if is_same_base(student.base, self._recipe.base) and student.name != TEACHER
        }
        named = [model_of(student, None, self._benchmark) for student in students.values()]
        aliases, bad_aliases = read_aliases(self._store)
        for alias, name in aliases.items():
            if name in students and alias not in versions:
                named.append(model_of(students[name], alias, self._benchmark))
        self._models = {TEACHER: self._teacher} | {
            model.id: model for model in sorted(named, key=lambda model: model.id)
        }
        self._log.name([*self._faults.values(), *bad_aliases])
        self._listed_at = time.monotonic()
