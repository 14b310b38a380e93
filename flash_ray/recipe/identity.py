"""What of a recipe decides the numbers of its run: its digest, and what `--resume` may change."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from flash_ray.errors import UserError

# Keys that change no number: where and how a run runs, and what looks at it. * is any list item.
FREE = (
    "name",
    "evaluation",
    "tracking",
    "teachers.*.replicas",
    "teacher_defaults.placement",
    "teacher_defaults.replicas",
    "teacher_defaults.max_in_flight",
    "teacher_defaults.diagnose_every",
    "runtime.global_batch_size",  # only held to: the three that make it are not free
    "runtime.checkpoint_every",
    "runtime.storage",
    "runtime.scratch",
    "runtime.max_failures",
    "runtime.gradient_checkpointing",
    "runtime.offload",
    "runtime.cpus_per_worker",
)
# Keys with values under which the numbers are those of a run without the key.
UNCHANGED: Mapping[str, tuple[Any, ...]] = {
    "data.selection_seed": (None,),
    "training.base_precision": (None, "bf16"),
    "teacher_defaults.quantized": (False,),
}
ITERATIONS = "training.iterations"
WORKERS = "runtime.num_workers"
STAGE = "runtime.zero_stage"


def identity(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that decide the numbers, by dotted path.

    Args:
        recipe: a whole recipe as plain data, as `Recipe.model_dump(mode="json")` has it.
    """
    runtime = dict(recipe["runtime"])
    if isinstance(workers := runtime["num_workers"], Mapping):
        runtime["num_workers"] = workers["max"]  # fewer workers take more passes for the same
    fields = leaves({**recipe, "runtime": runtime})
    return {
        path: value
        for path, value in fields
        if not _is_free(path) and value not in UNCHANGED.get(path, ())
    }


def digest(fields: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of fields in canonical JSON."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def resumable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run that may be continued.

    It is without the ZeRO stage, which decides rounding alone, and without the number of its
    iterations, where no weight of a teacher depends on how large a part of them is done.
    """
    fields = identity(recipe)
    del fields[STAGE]
    progress = (fields[path] for path in fields if ".progress." in path)
    if all(value in (0.0, 1.0) for value in progress):
        del fields[ITERATIONS]
    return fields


def validate_resume(run: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a run can go on with a recipe.

    Args:
        run: the run's name.
        before, now: the recipe that it began with, and the one given, whole, as plain data.

    Raises:
        UserError: the first key that differs and decides numbers, with both values.
    """
    began, given = resumable(before), resumable(now)
    fewer = now["training"]["iterations"] < before["training"]["iterations"]
    if fewer or (ITERATIONS in began) != (ITERATIONS in given):
        began, given = identity(before), identity(now)
    for path in sorted({*began, *given}):
        if began.get(path) != given.get(path):
            raise UserError(
                f"--resume: {path}: {_shown(given, path)}, but run {run!r} began with "
                f"{_shown(began, path)}; allowed: other values of what changes no number, such as "
                "runtime.checkpoint_every, max_failures and teacher_defaults.placement, and more "
                f"{ITERATIONS} where no weight depends on progress; set it back, or start a run "
                "with another name"
            )


def _shown(fields: Mapping[str, Any], path: str) -> str:
    return json.dumps(fields[path]) if path in fields else "nothing"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested data with their dotted paths; empty lists and mappings are leaves."""
    if isinstance(value, Mapping) and value:
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(number), item) for number, item in enumerate(value)]
    else:
        yield path, value
        return
    for name, item in items:
        yield from leaves(item, f"{path}.{name}" if path else name)


def _is_free(path: str) -> bool:
    pattern = ".".join("*" if part.isdecimal() else part for part in path.split("."))
    return any(f"{pattern}.".startswith(f"{free}.") for free in FREE)
