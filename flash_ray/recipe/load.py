"""From a preset or a YAML file, with dotted overrides, to a checked Recipe, and back to YAML."""

import copy
import json
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flash_ray.errors import UserError, one_line, unknown
from flash_ray.recipe import messages, validation
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Recipe

PRESETS = resources.files("flash_ray.recipe") / "presets"


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    return _names(PRESETS)


def teacher_presets() -> list[str]:
    """Names that may stand for a recipe's list of teachers."""
    return _names(PRESETS / "teachers")


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a preset by name, or a YAML file, and applies overrides such as "student.steps=4".

    Raises UserError, one line that names the field and the cure, for anything that is wrong.
    """
    return parse_recipe(load_raw(name_or_path, overrides))


def load_raw(name_or_path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Reads a recipe without checking it: plain data, for parse_recipe or more overrides."""
    raw = _expanded(_read(str(name_or_path)))
    for text in overrides or []:
        raw = override(raw, text)
    return raw


def parse_recipe(raw: dict[str, Any]) -> Recipe:
    """Checks a recipe given as plain data. Raises UserError as load_recipe does."""
    raw = _expanded(raw)
    if problems := list(messages.renamed_keys(raw)):
        raise UserError(one_line(problems))
    try:
        # Strict JSON: lists become tuples, but neither true nor "4" becomes a number.
        recipe = Recipe.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise UserError(messages.problem(error, Recipe)) from None
    validation.validate(recipe)
    return recipe


def dump_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as YAML that load_recipe reads back to an equal one."""
    fields = recipe.model_dump(mode="json")
    return yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=100)


def _read(name_or_path: str) -> dict[str, Any]:
    if new := messages.RENAMED_PRESETS.get(name_or_path):
        raise UserError(f"recipe: preset {name_or_path!r}: renamed; now {new!r}; write that")
    if name_or_path in presets():
        text = (PRESETS / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = read_text(name_or_path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise UserError(
                f"recipe: {name_or_path}: {reason}; allowed: a YAML file, or a preset "
                f"({', '.join(presets())}); check the name"
            ) from None
    raw = parse_yaml(text, f"recipe: {name_or_path}")
    if not isinstance(raw, dict):
        raise UserError(
            f"recipe: {name_or_path}: not a mapping; allowed: YAML with keys such as name, base "
            "and data; start from `flash-ray recipe show miniature`"
        )
    return raw


def _names(folder: Traversable) -> list[str]:
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _expanded(raw: dict[str, Any]) -> dict[str, Any]:
    """With the list of teachers in place of a preset's name."""
    name = raw.get("teachers")
    if not isinstance(name, str):
        return raw
    if problems := list(messages.renamed_keys({"teachers": name})):
        raise UserError(one_line(problems))
    if name not in teacher_presets():
        raise UserError(unknown("teachers", name, teacher_presets(), "preset"))
    text = (PRESETS / "teachers" / f"{name}.yaml").read_text(encoding="utf-8")
    return {**raw, "teachers": parse_yaml(text, f"teachers: {name}")}


def override(raw: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy with one dotted path set, "student.steps=4"; list items are named by number, from 0.

    Raises UserError if the path leads nowhere or the text is not PATH=YAML.
    """
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set: {text!r} is not KEY=VALUE; write e.g. student.steps=4")
    raw = copy.deepcopy(raw)
    node: Any = raw
    for depth, name in enumerate(keys):
        key: str | int = name
        if isinstance(node, list):
            if not (name.isdecimal() and int(name) < len(node)):
                raise UserError(
                    f"--set: {path}: {'.'.join(keys[:depth])} has {len(node)} items; allowed: "
                    f"0 to {len(node) - 1} in place of {name!r}; correct the number"
                )
            key = int(name)
        elif not isinstance(node, dict):
            raise UserError(
                f"--set: {path}: {'.'.join(keys[:depth])} is the value {node!r}, not a section; "
                "see `flash-ray recipe show` for the keys"
            )
        if depth == len(keys) - 1:
            node[key] = parse_yaml(value, f"--set {path}")
        elif isinstance(node, dict):
            node = node.setdefault(key, {})
        else:
            node = node[key]
    return _expanded(raw)
