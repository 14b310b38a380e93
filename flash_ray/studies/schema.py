"""What a study file says: a base recipe, its arms, seeds and budget, and what it wants to know."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from flash_ray.recipe.schema import Section
from flash_ray.studies import checks

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Bench = Literal["t2i", "edit"]


class Budget(Section):
    """How long every arm trains: exactly one of the three."""

    updates: int | None = Field(None, ge=1, description="student updates, 1 or more")
    images: int | None = Field(None, ge=1, description="samples of the student, 1 or more")
    passes: float | None = Field(
        None, gt=0, description="samples for each unique case, above 0, held equal across arms"
    )


class Factor(Section):
    """A table of the report: arms that differ in one thing."""

    title: str = Field(min_length=1, description="the table's heading")
    arms: tuple[Name, ...] = Field(min_length=2, description="names of two arms or more, in order")
    benches: tuple[Bench, ...] = Field(
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
    expect: Literal["higher", "lower", "not lower"] = Field(
        description="what the claim says of left: 'higher', 'lower' or 'not lower' than right"
    )


class Noise(Section):
    """The same arms under other seeds: what difference means nothing."""

    arms: tuple[Name, ...] = Field((), description="names of arms")
    seeds: tuple[Seed, ...] = Field((), description="other seeds than the study's, as many")


class Study(Section):
    """Everything that a study is."""

    name: Name = Field(description="letters a-z, digits, . -, at most 40")
    recipe: str = Field(min_length=1, description="the base recipe: a preset's name or a YAML file")
    set: dict[str, Any] = Field({}, description="overrides of the base recipe, by dotted path")
    arms: dict[Name, dict[str, Any]] = Field(
        {}, description="for each of two arms or more its overrides, by dotted path"
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, description="seeds of every arm")
    noise: Noise = Noise()
    budget: Budget
    fixed: tuple[str, ...] = Field(
        ("base", "backbone", "objective", "student", "optimisation", "runtime"),
        description="fields of the recipe that no arm may change, as dotted paths",
    )
    benches: dict[Bench, Annotated[int, Field(ge=1, le=1000)]] = Field(
        {"t2i": 16, "edit": 16}, min_length=1, description="cases of each category, by bench"
    )
    curve_every: int = Field(
        0,
        ge=0,
        description="updates between small bench scores for the curves, or in a search between "
        "scores on the benches; 0: none",
    )
    margin: float = Field(
        0.1, gt=0, le=4, description="difference of scores that counts for 'not lower', above 0"
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
        checks.refuse_contradictions(self)
        return self

    @property
    def tables(self) -> dict[str, Factor]:
        """The factors; of a study that names none, one of all arms."""
        if self.factors:
            return self.factors
        return {"arms": Factor(title="Arms", arms=tuple(self.arms), benches=tuple(self.benches))}
