"""From a study's name or file to a checked study and the recipes of its arms."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe, parse_recipe
from flash_ray.recipe.load import RecipeLoader, load_raw, override
from flash_ray.studies import checks
from flash_ray.studies.budget import with_budget
from flash_ray.studies.schema import Study

SHIPPED = resources.files("flash_ray.studies") / "shipped"


def shipped() -> list[str]:
    """Names of the studies that ship with the package."""
    return sorted(e.name[:-5] for e in SHIPPED.iterdir() if e.name.endswith(".yaml"))


def load_study(name_or_path: str) -> Study:
    """Reads a shipped study by name, or a YAML file.

    Raises:
        UserError: one line that names the field and the cure, for anything that is wrong with the
            study or with the recipe of an arm.
    """
    raw = _read(name_or_path)
    try:
        study = Study.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"study: {_first(error)}") from None
    checks.refuse_arms(study, {arm: arm_recipe(study, arm, study.seeds[0]) for arm in study.arms})
    for path, values in study.space.items():
        checks.refuse_space(study, path, [value_recipe(study, path, value) for value in values])
    return study


def arm_recipe(study: Study, arm: str, seed: int) -> Recipe:
    """The recipe of a trial, but for its name: the base's, the study's, then the arm's overrides.

    Raises:
        UserError: it is no recipe; the message begins with the arm.
    """
    try:
        return changed_recipe(study, study.arms[arm], seed)
    except UserError as error:
        raise UserError(f"arms.{arm}: {error}") from error


def value_recipe(study: Study, path: str, value: Any) -> Recipe:
    """The study's recipe with one value of its space and nothing else changed.

    Raises:
        UserError: it is no recipe; the message begins with the path.
    """
    try:
        return changed_recipe(study, {path: value}, study.seeds[0])
    except UserError as error:
        raise UserError(f"space.{path}: {error}") from error


def changed_recipe(study: Study, changes: Mapping[str, Any], seed: int) -> Recipe:
    """The study's recipe with its overrides, these changes by dotted path, and its budget.

    Raises:
        UserError: it is no recipe.
    """
    raw = load_raw(study.recipe)
    overrides = {
        **study.set,
        **changes,
        "seed": seed,
        "name": study.name,
        "runtime.bench_every": study.curve_every,
    }
    for path, value in overrides.items():
        raw = override(raw, f"{path}={json.dumps(value)}")
    return with_budget(parse_recipe(raw), study.budget)


def _read(name_or_path: str) -> dict[str, Any]:
    try:
        if name_or_path in shipped():
            text = (SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        else:
            text = Path(name_or_path).read_text(encoding="utf-8")
        raw = yaml.load(text, RecipeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(
            f"study: {name_or_path}: {reason}; allowed: a YAML file, or a shipped study "
            f"({', '.join(shipped())}); check the name"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"study: {name_or_path}: not valid YAML{where}; correct it") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"study: {name_or_path}: not a mapping; allowed: YAML with keys such as name, recipe "
            f"and arms; see the shipped {', '.join(shipped())}"
        )
    return raw


def _first(error: ValidationError) -> str:
    """The first problem, in one line, with the allowed values that the schema states."""
    found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        node = Study.model_json_schema()
        siblings = _keys(node, found["loc"][:-1])
        return checks.unknown(path, str(found["loc"][-1]), siblings, "key")
    if found["type"] == "missing":
        return f"{path}: missing; add it to the study"
    value = repr(found["input"])
    value = value if len(value) <= 60 else value[:57] + "..."
    return f"{path}: value {value}: {found['msg']}; set {path} to such a value"


def _keys(schema: dict[str, Any], loc: tuple[Any, ...]) -> list[str]:
    """The keys that a study may have at a place."""
    node = schema
    for part in loc:
        if "properties" in node and part in node["properties"]:
            node = node["properties"][part]
        else:
            node = node.get("additionalProperties") or node.get("items") or {}
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].split("/")[-1]]
    return list(node.get("properties", {}))
