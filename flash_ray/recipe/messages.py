"""Turns what is wrong with a recipe, and what was renamed in it, into lines to act on."""

import difflib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flash_ray.errors import one_line

# Renamed paths, old -> new; * stands for any item of a list. What lies below moves along.
RENAMED_KEYS = {
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
RENAMED_PRESETS = {"qwen-image-2.1": "qwen-image-2.1-full"}
# Renamed values, old -> new, by the path of their key.
RENAMED_VALUES = {
    "teachers": {"specialised-only": "specialized-only"},
    "teachers.*.model": {"miniature-specialised": "miniature-specialized"},
}


def problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first error (an unknown key before others, it often causes them) and a count.

    Args:
        model: what was validated; its descriptions say what is allowed.
    """
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    schema = _Schema(model.model_json_schema())
    return one_line([schema.explain(e) for e in errors])


def renamed_keys(raw: Mapping[str, Any]) -> Iterator[str]:
    """One line for each old key and value of a recipe given as plain data, at any depth."""
    yield from _renamed(raw, ())


class _Schema:
    """Looks keys and descriptions up in a JSON schema."""

    def __init__(self, root: dict[str, Any]):
        self._root = root

    def explain(self, error: ErrorDetails) -> str:
        """The line for one of pydantic's errors."""
        # Parts such as "<number>" are the tags of a union's branches, not keys.
        loc = [part for part in error["loc"] if not str(part).startswith("<")]
        path = ".".join(map(str, loc))
        if error["type"] == "extra_forbidden":
            return self._unknown(loc, path)
        allowed = self._allowed(loc)
        if error["type"] == "missing":
            return f"{path}: missing; allowed: {allowed}; add it"
        value = repr(error["input"])
        value = value if len(value) <= 60 else value[:57] + "..."
        message = error["msg"].removeprefix("Input ")
        return f"{path}: value {value} {message}; allowed: {allowed}; set {path} to such a value"

    def _unknown(self, loc: list[str | int], path: str) -> str:
        key, siblings = str(loc[-1]), self._keys(self._node(loc[:-1]))
        prefix = path.removesuffix(key)
        near = [prefix + name for name in difflib.get_close_matches(key, siblings, n=1)]
        near = near or [p for p in self._paths if p.endswith(f".{key}")]
        near = near or difflib.get_close_matches(path, self._paths, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"{path}: unknown key; {hint}allowed here: {', '.join(siblings)}; rename or remove it"
        )

    @cached_property
    def _paths(self) -> list[str]:
        """Every dotted path, list items as 0."""

        def walk(node: dict[str, Any], prefix: str) -> Iterator[str]:
            for key in self._keys(node):
                yield prefix + key
                yield from walk(self._child(node, key), f"{prefix}{key}.")
            if item := self._child(node, 0):
                yield from walk(item, f"{prefix}0.")

        return list(walk(self._root, ""))

    def _branches(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        """A node's alternatives, references followed."""
        nodes = node.get("oneOf") or node.get("anyOf") or [node]
        return [self._root["$defs"][n["$ref"].split("/")[-1]] if "$ref" in n else n for n in nodes]

    def _keys(self, node: dict[str, Any]) -> list[str]:
        return [key for branch in self._branches(node) for key in branch.get("properties", {})]

    def _child(self, node: dict[str, Any], part: str | int) -> dict[str, Any]:
        for branch in self._branches(node):
            if isinstance(part, int):
                child = branch.get("items")
            else:
                child = branch.get("properties", {}).get(part, branch.get("additionalProperties"))
            if isinstance(child, dict):
                return child
        return {}

    def _node(self, loc: list[str | int]) -> dict[str, Any]:
        node = self._root
        for part in loc:
            node = self._child(node, part)
        return node

    def _allowed(self, loc: list[str | int]) -> str:
        """What is allowed at loc, as the nearest described field at or above it says."""
        for end in range(len(loc), 0, -1):
            node = self._node(loc[:end])
            if node.get("description"):
                return node["description"]
            if keys := self._keys(node):
                return f"a section with the keys {', '.join(keys)}"
        return f"a mapping with the keys {', '.join(self._keys(self._root))}"


def _renamed(node: object, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, Mapping):
        children = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list | tuple):
        children = [(str(index), value) for index, value in enumerate(node)]
    else:
        new_value = RENAMED_VALUES.get(_pattern(path), {}).get(str(node))
        if new_value is not None:
            yield f"{'.'.join(path)}: {node!r} was renamed; allowed: {new_value!r}; write that"
        return
    for key, value in children:
        here = (*path, key)
        new_path = _new_path(here)
        if new_path and not (isinstance(value, Mapping) and value and _has_renamed_keys(here)):
            yield f"{'.'.join(here)}: renamed; now {new_path}; write that"
        else:
            yield from _renamed(value, here)


def _new_path(path: tuple[str, ...]) -> str | None:
    """Where a path, or the nearest renamed one above it, has gone."""
    for length in range(len(path), 0, -1):
        if new := RENAMED_KEYS.get(_pattern(path[:length])):
            numbers = iter(part for part in path[:length] if part.isdecimal())
            parts = [next(numbers) if part == "*" else part for part in new.split(".")]
            return ".".join([*parts, *path[length:]])
    return None


def _has_renamed_keys(path: tuple[str, ...]) -> bool:
    return any(old.startswith(_pattern(path) + ".") for old in RENAMED_KEYS)


def _pattern(path: tuple[str, ...]) -> str:
    return ".".join("*" if part.isdecimal() else part for part in path)
