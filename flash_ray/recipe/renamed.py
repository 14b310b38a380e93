"""Keys and values of recipes that were renamed: an old one is refused with its new name."""

from collections.abc import Iterator, Mapping
from typing import Any

# Dotted paths, old -> new; * stands for any item of a list. What lies below moves along.
KEYS = {
    "backbone": "family",
    "data.prompts": "data.num_cases",
    "data.cap": "data.max_per_category",
    "data.size": "data.resolution",
    "teachers.*.guidance": "teachers.*.guidance_scale",
    "teachers.*.rescale": "teachers.*.guidance_rescale",
    "teaching": "teacher_defaults",
    "teaching.guidance": "teacher_defaults.guidance_scale",
    "teaching.rescale": "teacher_defaults.guidance_rescale",
    "teacher_defaults.guidance": "teacher_defaults.guidance_scale",
    "teacher_defaults.rescale": "teacher_defaults.guidance_rescale",
    "objective.shift": "objective.timestep_shift",
    "student.shift": "student.timestep_shift",
    "optimisation": "training",
    "optimisation.updates": "training.iterations",
    "optimisation.student": "training.optimizer",
    "optimisation.fake": "training.fake_score.optimizer",
    "optimisation.fake_updates": "training.fake_score.updates_per_iteration",
    "optimisation.ema": "training.ema_decay",
    "optimisation.clip": "training.max_grad_norm",
    "runtime.workers": "runtime.num_workers",
    "runtime.micro_batch": "runtime.micro_batch_size",
    "runtime.accumulation": "runtime.gradient_accumulation_steps",
    "runtime.global_batch": "runtime.global_batch_size",
    "runtime.bench_every": "evaluation.every",
    "runtime.recompute": "runtime.gradient_checkpointing",
}
# By the path that has them, old -> new.
VALUES = {
    "teachers": {"specialised-only": "specialized-only"},
    "teachers.*.model": {"miniature-specialised": "miniature-specialized"},
}


def problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """One line for each old key and value of a recipe given as plain data, at any depth."""
    yield from _problems(raw, ())


def _problems(node: object, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, Mapping):
        children = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple):
        children = [(str(index), value) for index, value in enumerate(node)]
    else:
        new_value = VALUES.get(_pattern(path), {}).get(str(node))
        if new_value is not None:
            yield f"{'.'.join(path)}: {node!r} was renamed; allowed: {new_value!r}; write that"
        return
    for key, value in children:
        here = (*path, key)
        new_path = _new_path(here)
        if new_path and not (isinstance(value, Mapping) and value and _has_renamed_keys(here)):
            yield f"{'.'.join(here)}: renamed; now {new_path}; write that"
        else:
            yield from _problems(value, here)


def _new_path(path: tuple[str, ...]) -> str | None:
    """Where a path, or the nearest renamed one above it, has gone."""
    for length in range(len(path), 0, -1):
        if new := KEYS.get(_pattern(path[:length])):
            numbers = iter(part for part in path[:length] if part.isdecimal())
            parts = [next(numbers) if part == "*" else part for part in new.split(".")]
            return ".".join([*parts, *path[length:]])
    return None


def _has_renamed_keys(path: tuple[str, ...]) -> bool:
    return any(old.startswith(_pattern(path) + ".") for old in KEYS)


def _pattern(path: tuple[str, ...]) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path)
