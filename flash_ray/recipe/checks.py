"""What field ranges cannot say: values that contradict each other, and what is not built yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flash_ray.errors import UserError

if TYPE_CHECKING:
    from flash_ray.recipe.schema import Recipe

S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w./=-]*)?")
ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")


def one_line(problems: list[str]) -> str:
    """The first problem, and how many more there are."""
    more = len(problems) - 1
    return problems[0] + (f" (and {more} more problem{'s'[: more > 1]})" if more else "")


def refuse_contradictions(recipe: Recipe) -> None:
    """Raises UserError if fields, each in its range, cannot hold together."""
    rules = (_data, _teachers, _rungs, _workers, _storage)
    if problems := [problem for rule in rules for problem in rule(recipe)]:
        raise UserError(one_line(problems))


def refuse_unsupported(recipe: Recipe) -> None:
    """Raises UserError if the recipe asks for something that this version cannot do."""
    if problems := list(_unsupported(recipe)):
        raise UserError(one_line(problems))


def _data(recipe: Recipe) -> Iterator[str]:
    shares = recipe.tasks.model_dump()
    if not any(shares.values()):
        yield "tasks: t2i and edit sum to 0; allowed: at least one above 0; set tasks.t2i=1"
    for task, share in shares.items():
        weights = getattr(recipe.data.composition, task).model_dump()
        if share and not any(weights.values()):
            yield (
                f"data.composition.{task}: weights sum to 0; allowed: at least one of "
                f"{', '.join(weights)} above 0; raise one, or set tasks.{task}=0"
            )


def _teachers(recipe: Recipe) -> Iterator[str]:
    weights = [teacher.weight for teacher in recipe.teachers]
    if not weights:
        yield "teachers: the list is empty; allowed: one teacher; add {name: base, model: base}"
    elif all(isinstance(weight, float) for weight in weights) and abs(sum(weights) - 1) > 1e-6:
        yield (
            f"teachers: weights sum to {sum(weights):g}; allowed: 1 over all teachers; "
            "set teachers.0.weight=1"
        )
    if recipe.teaching.placement == "in_process" and recipe.teaching.replicas > 1:
        yield (
            f"teaching.replicas: {recipe.teaching.replicas} with teaching.placement in_process; "
            "allowed: 1, every worker has its own copy; set teaching.replicas=1"
        )


def _rungs(recipe: Recipe) -> Iterator[str]:
    student, objective = recipe.student, recipe.objective
    if student.sigmas == ():
        yield "student.sigmas: the list is empty; allowed: a rung or more; set student.sigmas=null"
    elif student.sigmas is not None:
        sigmas = list(student.sigmas)
        if any(a <= b for a, b in zip(sigmas, sigmas[1:], strict=False)):
            yield (
                f"student.sigmas: {sigmas} do not decrease; allowed: strictly decreasing numbers "
                f"in (0, 1]; set student.sigmas={sorted(set(sigmas), reverse=True)}"
            )
        if len(sigmas) != student.steps:
            yield (
                f"student.steps: {student.steps} with {len(sigmas)} student.sigmas; allowed: "
                f"as many steps as sigmas; set student.steps={len(sigmas)}"
            )
    if objective.t_min >= objective.t_max:
        yield (
            f"objective.t_min: {objective.t_min:g} is not below objective.t_max "
            f"{objective.t_max:g}; allowed: t_min < t_max; set objective.t_min=0.02"
        )


def _workers(recipe: Recipe) -> Iterator[str]:
    runtime = recipe.runtime
    workers = runtime.workers
    if not isinstance(workers, int):
        if workers.min > workers.max:
            yield (
                f"runtime.workers.min: {workers.min} is above runtime.workers.max {workers.max}; "
                f"allowed: min <= max; set runtime.workers.max={workers.min}"
            )
        return
    if runtime.zero_stage == 3 and workers == 1:
        yield (
            "runtime.zero_stage: 3 with 1 worker has nothing to shard; allowed: stage 3 with 2 "
            "workers or more; set runtime.zero_stage=2 or runtime.workers=2"
        )
    samples = workers * runtime.micro_batch
    batch = runtime.global_batch
    if batch is not None and batch != samples * runtime.accumulation:
        if batch % samples:
            cure = f"set runtime.global_batch={samples * runtime.accumulation}"
        else:
            cure = f"set runtime.accumulation={batch // samples}"
        yield (
            f"runtime.global_batch: {batch} is not {workers} workers x {runtime.micro_batch} "
            f"micro_batch x {runtime.accumulation} accumulation; allowed: "
            f"{samples * runtime.accumulation}; {cure}"
        )


def _storage(recipe: Recipe) -> Iterator[str]:
    # The values are not quoted: someone may have put a secret into them.
    storage = recipe.runtime.storage
    if storage.url != "embedded" and not S3_URL.fullmatch(storage.url):
        yield (
            "runtime.storage.url: not a bucket's address; allowed: 'embedded' or "
            "s3://bucket/prefix without credentials; put those into AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if storage.endpoint is not None:
        if not ENDPOINT.fullmatch(storage.endpoint):
            yield (
                "runtime.storage.endpoint: not an address; allowed: http(s)://host:port without "
                "credentials; set runtime.storage.endpoint=http://HOST:PORT"
            )
        if storage.url == "embedded":
            yield (
                "runtime.storage.endpoint: given with url embedded, which has its own; allowed: "
                "null; set runtime.storage.url=s3://BUCKET or runtime.storage.endpoint=null"
            )


def _unsupported(recipe: Recipe) -> Iterator[str]:
    if recipe.data.source != "miniature":
        yield (
            f"data.source: {recipe.data.source!r} is not supported yet; allowed: 'miniature'; "
            "set data.source=miniature"
        )
    if len(recipe.teachers) > 1:
        yield (
            f"teachers: {len(recipe.teachers)} teachers are not supported yet; allowed: one; "
            "keep the first with weight 1"
        )
    elif recipe.teachers[0].weight != 1.0:
        yield (
            "teachers.0.weight: a λ table is not supported yet; allowed: 1; set teachers.0.weight=1"
        )
    if recipe.objective.name != "dmd":
        yield (
            f"objective.name: {recipe.objective.name!r} is not supported yet; allowed: 'dmd'; "
            "set objective.name=dmd"
        )
    if recipe.student.weights == "lora":
        yield (
            "student.weights: 'lora' is not supported yet; allowed: 'full'; "
            "set student.weights=full"
        )
    if not isinstance(recipe.runtime.workers, int):
        yield (
            "runtime.workers: a range is not supported yet; allowed: a number; "
            f"set runtime.workers={recipe.runtime.workers.max}"
        )
