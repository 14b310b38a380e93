"""Study files: a base recipe, its arms, seeds, benchmark and budget, checked; and their trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.models.lora_source import is_lora, lora_digest, without_pins
from flash_ray.recipe import Recipe, messages, parse_recipe
from flash_ray.recipe.load import load_raw, override
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Section, Task
from flash_ray.recipe.sections import BenchmarkChoice
from flash_ray.studies import validation
from flash_ray.studies.cases import CaseRange
from flash_ray.studies.parts import Budget, Cases, Diversity, Name, Quick, Seed, iterations_of


class Factor(Section):
    """A table of the report: arms that differ in one thing."""

    title: str = Field(min_length=1, description="the table's heading")
    arms: tuple[Name, ...] = Field(min_length=2, description="names of two arms or more, in order")
    tasks: tuple[Task, ...] = Field(
        ("t2i",), min_length=1, description="whose categories the table shows: t2i, edit"
    )


class Claim(Section):
    """Something that can be true or not: one mean of scores against another."""

    text: str = Field(min_length=1, description="the claim in words")
    source: str = Field(min_length=1, description="who says so")
    left: tuple[Name, ...] = Field(min_length=1, description="arms whose mean score is compared")
    right: tuple[Name, ...] = Field(min_length=1, description="arms that they are compared with")
    measure: str = Field(
        description="'t2i' or 'edit', or one category as t2i.text; the mean over its cases"
    )
    outcome: str = Field(
        "score",
        min_length=1,
        description="'score', a measure of the judge such as compliance, or 'diversity'",
    )
    horizon: Literal["late", "early"] = Field(
        "late", description="'late': at the end; 'early': after the study's `early` iterations"
    )
    expect: Literal["higher", "lower", "not lower", "best"] = Field(
        description="what the claim says of left: 'higher', 'lower' or 'not lower' than right, or "
        "'best': one arm, higher than each of right"
    )
    effect: float | None = Field(
        None,
        allow_inf_nan=False,
        description="left - right as the source reports it, on the judge's scale here, or null",
    )


class Study(Section):
    """Everything that a study is."""

    name: Name = Field(description="letters a-z, digits, . -, at most 40")
    recipe: str = Field(min_length=1, description="the base recipe: a preset's name or a YAML file")
    set: dict[str, Any] = Field({}, description="overrides of the base recipe, by dotted path")
    arms: dict[Name, dict[str, Any]] = Field(
        {}, description="for each of two arms or more its overrides, by dotted path"
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, description="seeds of every arm")
    budget: Budget
    early: int | None = Field(
        None,
        ge=1,
        description="iterations, below the budget's, after which students are scored on the "
        "study's cases too, or null: only at the end",
    )
    redraw: bool = Field(
        False,
        description="true or false: each seed draws other training cases, not only another order",
    )
    fixed: tuple[str, ...] = Field(
        ("base", "family", "objective", "student", "training", "runtime"),
        description="fields of the recipe that no arm may change, as dotted paths",
    )
    benchmark: BenchmarkChoice = Field(
        None,
        description="the name of a benchmark, {t2i: FILE, edit: FILE}, or null: the recipe's "
        "evaluation.benchmark",
    )
    judge: str | None = Field(
        None,
        min_length=1,
        description="the name of a judge, or null: the recipe's evaluation.judge",
    )
    cases: Cases = Field(
        {"t2i": 16, "edit": 16},
        min_length=1,
        description="cases of each category that students are scored on, 1 to 1000, by task: those "
        "that come after the development cases",
    )
    development: int = Field(
        16,
        ge=0,
        le=1000,
        description="the first cases of each category, 0 to 1000, which curves and searches alone "
        "see",
    )
    diversity: Diversity | None = Field(
        None, description="{prompts, noises} of pictures of one prompt, or null: none are drawn"
    )
    curve_every: int = Field(
        0,
        ge=0,
        description="iterations between scores on the recipe's evaluation.cases for the curves, or "
        "in a search between scores on the development cases; 0: none",
    )
    quick: Quick | None = Field(
        None,
        description="{seeds, iterations, early, cases, arms} of --quick, or null: there is none",
    )
    margins: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {"score": 0.1},
        description="by outcome δ, the difference that counts, on the outcome's scale, above 0",
    )
    factors: dict[str, Factor] = Field(
        {}, description="the report's tables, by name; none: one table of all arms"
    )
    claims: tuple[Claim, ...] = Field((), description="what the report gives a verdict on")
    space: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = Field(
        {}, description="for `search`: by dotted path two values or more to choose from"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        validation.validate_contradictions(self)
        return self

    @property
    def tables(self) -> dict[str, Factor]:
        """The factors; of a study that names none, one of all arms."""
        if self.factors:
            return self.factors
        return {"arms": Factor(title="Arms", arms=tuple(self.arms), tasks=tuple(self.cases))}


SHIPPED = resources.files("flash_ray.studies") / "shipped"
# (section, old key) -> new key
RENAMED = {
    ("", "benches"): "cases",
    ("", "margin"): "margins.score",
    ("budget", "updates"): "iterations",
    ("factors", "benches"): "tasks",
}


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
        raise UserError(f"study: {_problem(error)}") from None
    validate_study(study)
    return study


def validate_study(study: Study) -> None:
    """Raises UserError, one line, if a recipe of the study cannot be or cannot be judged."""
    arms = {arm: arm_recipe(study, arm, study.seeds[0]) for arm in study.arms}
    validation.validate_arms(study, arms)
    recipes = list(arms.values())
    for path, values in study.space.items():
        options = [value_recipe(study, path, value) for value in values]
        validation.validate_space(study, path, options)
        recipes += options
    validation.validate_measures(study, recipes[0])


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
    fields = study.model_dump(mode="json", include={"benchmark", "judge"})
    judged_by = {f"evaluation.{key}": value for key, value in fields.items()}
    overrides = {
        **study.set,
        **{path: value for path, value in judged_by.items() if value is not None},
        **changes,
        "seed": seed,
        **({"data.selection_seed": seed} if study.redraw else {}),
        "name": study.name,
        "evaluation.every": study.curve_every,
    }
    for path, value in overrides.items():
        raw = override(raw, f"{path}={json.dumps(value)}")
    recipe = parse_recipe(raw)
    iterations = iterations_of(recipe, study.budget)
    training = recipe.training.model_copy(update={"iterations": iterations})
    return recipe.model_copy(update={"training": training})


def _read(name_or_path: str) -> dict[str, Any]:
    try:
        if name_or_path in shipped():
            text = (SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        else:
            text = read_text(name_or_path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(
            f"study: {name_or_path}: {reason}; allowed: a YAML file, or a shipped study "
            f"({', '.join(shipped())}); check the name"
        ) from None
    raw = parse_yaml(text, f"study: {name_or_path}")
    if not isinstance(raw, dict):
        raise UserError(
            f"study: {name_or_path}: not a mapping; allowed: YAML with keys such as name, recipe "
            f"and arms; see the shipped {', '.join(shipped())}"
        )
    return raw


def _problem(error: ValidationError) -> str:
    """The first problem in one line; of a key that was renamed, its new name."""
    for entry in error.errors():
        *sections, key = map(str, entry["loc"]) or [""]
        new = RENAMED.get((sections[0] if sections else "", key))
        if new and entry["type"] == "extra_forbidden":
            old_path, new_path = ".".join([*sections, key]), ".".join([*sections, new])
            return f"{old_path}: renamed; now {new_path}; write that"
    return messages.problem(error, Study)


@dataclass(frozen=True)
class Trial:
    """One arm under one seed.

    Args:
        study: its name.
        recipe: named as the trial; its `evaluation` names the study's benchmark and judge.
        cases: that the student is scored on, of each category, by task.
        benchmark: its name and digest, those of the study's first recipe, by which all trials are
            judged: where a trial runs, its files need not be.
        development, early, diversity: the study's.
    """

    study: str
    arm: str
    seed: int
    recipe: Recipe
    cases: Mapping[Task, int]
    benchmark: tuple[str, str]
    development: int
    early: int | None
    diversity: Diversity | None

    @property
    def name(self) -> str:
        """The trial's, its run's and its student's."""
        return self.recipe.name

    @property
    def digest(self) -> str:
        """16 hex digits that change with whatever decides the trial's result."""
        endpoint = self.recipe.runtime.storage.endpoint
        content: list[object] = [
            without_pins(self.recipe).digest,
            [dict(self.cases), self.development, self.early],
            self.diversity and self.diversity.model_dump(),
            self.benchmark[1],
            self.recipe.evaluation.judge_name,
            *(lora_digest(t.model, endpoint) for t in self.recipe.teachers if is_lora(t.model)),
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def scored(self) -> CaseRange:
        """Which cases the student is scored on."""
        return CaseRange(self.cases, self.development)

    @property
    def varied(self) -> CaseRange | None:
        """Which cases it answers from several noises; None: none."""
        if self.diversity is None:
            return None
        prompts = dict.fromkeys(self.cases, self.diversity.prompts)
        return CaseRange(prompts, self.development, self.diversity.noises)

    def scored_cases(self) -> dict[Task, list[Case]]:
        """The cases that the student is scored on, by task."""
        return self.scored.of(validation.benchmark_of(self.recipe))


def plan_trials(study: Study) -> list[Trial]:
    """All trials, seed by seed, so that a study that is cut off has whole seeds.

    Raises:
        UserError: the recipe of an arm cannot be, or there are no arms.
    """
    first = first_recipe(study)
    found = validation.benchmark_of(first)
    pairs = [(arm, seed) for seed in study.seeds for arm in study.arms]
    return [
        Trial(
            study.name,
            arm,
            seed,
            _named_recipe(study, arm, seed),
            study.cases,
            (found.name, found.digest),
            study.development,
            study.early,
            study.diversity,
        )
        for arm, seed in pairs
    ]


def first_recipe(study: Study) -> Recipe:
    """The recipe of the first trial.

    Raises:
        UserError: it cannot be, or there are no arms.
    """
    if not study.arms:
        raise UserError(
            f"arms: {study.name} has none, only a space; allowed: two or more; add them, or run "
            "`flash-ray study search`"
        )
    return _named_recipe(study, next(iter(study.arms)), study.seeds[0])


def _named_recipe(study: Study, arm: str, seed: int) -> Recipe:
    name = f"{study.name}-{arm}-{seed}"
    return arm_recipe(study, arm, seed).model_copy(update={"name": name})
