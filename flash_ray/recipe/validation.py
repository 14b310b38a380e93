"""What field ranges cannot say: values that contradict each other, and what is not built yet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flash_ray.errors import UserError, one_line, unknown
from flash_ray.miniature.categories import CATEGORIES
from flash_ray.recipe.teacher_weights import moments, weight_at

if TYPE_CHECKING:
    from flash_ray.recipe.schema import Recipe

S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w./=-]*)?")
ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")


def validate_contradictions(recipe: Recipe) -> None:
    """Raises UserError if fields, each in its range, cannot hold together."""
    rules = (_data, _teachers, _lambdas, _rungs, _workers, _storage)
    if problems := [problem for rule in rules for problem in rule(recipe)]:
        raise UserError(one_line(problems))


def validate_unsupported(recipe: Recipe) -> None:
    """Raises UserError if the recipe asks for something that this version cannot do."""
    if problems := list(_unsupported(recipe)):
        raise UserError(one_line(problems))


def _data(recipe: Recipe) -> Iterator[str]:
    data, shares = recipe.data, recipe.tasks.model_dump()
    if not any(shares.values()):
        yield "tasks: t2i and edit sum to 0; allowed: at least one above 0; set tasks.t2i=1"
    for task, share in shares.items():
        field, weights = f"data.composition.{task}", getattr(data.composition, task)
        if data.source == "miniature":
            for name in weights:
                if name not in CATEGORIES[task]:
                    yield unknown(f"{field}.{name}", name, CATEGORIES[task], "category")
        else:
            yield from _address(recipe, task, share)
        if share and not any(weights.values()):
            yield (
                f"{field}: weights sum to 0; allowed: at least one category above 0; raise one, or "
                f"set tasks.{task}=0"
            )
    yield from _filter(recipe)


def _address(recipe: Recipe, task: str, share: int) -> Iterator[str]:
    """Of a task's files."""
    address = getattr(recipe.data.source, task)
    if share and address is None:
        yield (
            f"data.source.{task}: missing with tasks.{task} {share}; allowed: the address of "
            f"files; add it, or set tasks.{task}=0"
        )
    if address and address.startswith("s3://") and recipe.runtime.storage.url == "embedded":
        yield (
            f"data.source.{task}: a bucket with runtime.storage.url embedded, whose server takes "
            "the place of any other; allowed: files on disk, or a store in S3; "
            "set runtime.storage.url=s3://BUCKET/PREFIX"
        )


def _filter(recipe: Recipe) -> Iterator[str]:
    wanted, source = recipe.data.filter, recipe.data.source
    if wanted.length and wanted.length[0] > wanted.length[1]:
        yield (
            f"data.filter.length: {list(wanted.length)} has no room; allowed: [fewest, most] with "
            f"fewest <= most; set data.filter.length={sorted(wanted.length)}"
        )
    if wanted.subsets == ():
        yield "data.filter.subsets: the list is empty; allowed: a name or more, or null"
    columns = {"subsets": "subset", "min_score": "score"}
    for field, column in columns.items():
        if getattr(wanted, field) is None:
            continue
        if source == "miniature":
            yield (
                f"data.filter.{field}: {getattr(wanted, field)!r} with data.source miniature, "
                f"which has no {column}; allowed: null; set data.filter.{field}=null"
            )
        elif source != "miniature" and getattr(source.columns, column) is None:
            yield (
                f"data.filter.{field}: {getattr(wanted, field)!r} without a {column} column; "
                f"allowed: null, or with data.source.columns.{column}; name that column"
            )


def _teachers(recipe: Recipe) -> Iterator[str]:
    names = [teacher.name for teacher in recipe.teachers]
    if not names:
        yield "teachers: the list is empty; allowed: one teacher; add {name: base, model: base}"
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (
                f"teachers.{index}.name: {name!r} is teachers.{names.index(name)}'s too; allowed: "
                f"a name of its own; rename it"
            )
    yield from _replicas(recipe)


def _replicas(recipe: Recipe) -> Iterator[str]:
    counts = {"teacher_defaults": recipe.teacher_defaults.replicas}
    counts |= {f"teachers.{i}": teacher.replicas for i, teacher in enumerate(recipe.teachers)}
    for where, replicas in counts.items():
        if replicas is None or replicas == 1:
            continue
        field, is_range = f"{where}.replicas", not isinstance(replicas, int)
        if recipe.teacher_defaults.placement == "in_process":
            value = "a range" if is_range else replicas
            yield (
                f"{field}: {value} with teacher_defaults.placement in_process; allowed: 1, every worker "
                f"has its own copy; set {field}=1"
            )
        elif is_range and replicas.min > replicas.max:
            yield (
                f"{field}.min: {replicas.min} is above {field}.max {replicas.max}; allowed: "
                f"min <= max; set {field}.max={replicas.min}"
            )


def _lambdas(recipe: Recipe) -> Iterator[str]:
    """The tables of λ: rules that can apply, no gap, and 1 in all, in every cell."""
    steps, composition = len(recipe.student.rungs), recipe.data.composition
    problems = []
    for index, teacher in enumerate(recipe.teachers):
        for number, rule in enumerate(() if isinstance(teacher.weight, float) else teacher.weight):
            field = f"teachers.{index}.weight.{number}"
            if beyond := [rung for rung in rule.rungs or () if rung > steps]:
                problems.append(
                    f"{field}.rungs: {beyond[0]} with {steps} rungs; allowed: 1 to {steps}; "
                    "correct it"
                )
            start, end = rule.progress
            if not 0 <= start < end <= 1:
                problems.append(
                    f"{field}.progress: [{start:g}, {end:g}]; allowed: [from, to) with "
                    "0 <= from < to <= 1; correct it"
                )
            known = [*composition.t2i, *composition.edit]
            if rule.category is not None and rule.category not in known:
                known = list(dict.fromkeys(known))
                problems.append(unknown(f"{field}.category", rule.category, known, "category"))
    yield from problems
    if recipe.teachers and not problems:
        yield from list(_sums(recipe))[:1]


def _sums(recipe: Recipe) -> Iterator[str]:
    for moment, end in moments(recipe):
        where = (
            f"at rung {moment.rung}, progress {moment.progress:g} to {end:g}, "
            f"{moment.task} {moment.category}"
        )
        found = [weight_at(teacher, moment) for teacher in recipe.teachers]
        if None in found:
            index = found.index(None)
            yield (
                f"teachers.{index}.weight: no rule applies {where}; allowed: a λ everywhere; end "
                "the list with {weight: 0.0} or another rule for all"
            )
        elif abs(sum(found) - 1) > 1e-6:
            yield (
                f"teachers: λ sums to {sum(found):g} {where}; allowed: 1 over all teachers; "
                f"correct teachers.{len(found) - 1}.weight"
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
    workers = runtime.num_workers
    if not isinstance(workers, int):
        if workers.min > workers.max:
            yield (
                f"runtime.num_workers.min: {workers.min} is above runtime.num_workers.max {workers.max}; "
                f"allowed: min <= max; set runtime.num_workers.max={workers.min}"
            )
            return
        if not runtime.checkpoint_every:
            yield (
                "runtime.checkpoint_every: 0 with a range of workers, which begins again at the "
                "last checkpoint when it grows or shrinks; allowed: 1 or more; "
                "set runtime.checkpoint_every=50"
            )
    if runtime.zero_stage == 3 and runtime.min_workers == 1:
        yield (
            "runtime.zero_stage: 3 with 1 worker has nothing to shard; allowed: stage 3 with 2 "
            "workers or more; set runtime.zero_stage=2 or runtime.num_workers=2"
        )
    workers = runtime.max_workers
    samples = workers * runtime.micro_batch_size
    batch = runtime.global_batch_size
    if batch is not None and batch != samples * runtime.gradient_accumulation_steps:
        if batch % samples:
            cure = f"set runtime.global_batch_size={samples * runtime.gradient_accumulation_steps}"
        else:
            cure = f"set runtime.gradient_accumulation_steps={batch // samples}"
        yield (
            f"runtime.global_batch_size: {batch} is not {workers} workers x {runtime.micro_batch_size} "
            f"micro_batch x {runtime.gradient_accumulation_steps} accumulation; allowed: "
            f"{samples * runtime.gradient_accumulation_steps}; {cure}"
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
