"""Parts of a study file: names and seeds, how long arms train, diversity, the quick version."""

import math
from typing import Annotated

from pydantic import Field

from flash_ray.data.select import unique_cases
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Section, Task

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Cases = dict[Task, Annotated[int, Field(ge=1, le=1000)]]


class Budget(Section):
    """How long every arm trains: exactly one of the three."""

    iterations: int | None = Field(None, ge=1, description="student updates, 1 or more")
    images: int | None = Field(None, ge=1, description="samples of the student, 1 or more")
    passes: float | None = Field(
        None, gt=0, description="samples for each unique case, above 0, held equal across arms"
    )


class Diversity(Section):
    """Pictures of one prompt from several noises, whose differences are measured."""

    prompts: int = Field(
        ge=1, le=1000, description="of each category, the first of the study's cases, 1 to 1000"
    )
    noises: int = Field(ge=2, le=64, description="pictures of each prompt, 2 to 64")


class Quick(Section):
    """The small version of a study that --quick runs, status and report too."""

    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="seeds of every arm")
    iterations: int = Field(ge=1, description="student updates, 1 or more")
    early: int | None = Field(None, ge=1, description="as the study's, or null: none")
    cases: Cases = Field(min_length=1, description="cases of each category, 1 to 1000, by task")
    arms: tuple[Name, ...] | None = Field(
        None, min_length=2, description="names of two arms or more, or null: all"
    )


def iterations_of(recipe: Recipe, budget: Budget) -> int:
    """The fewest student updates that reach the budget."""
    if budget.iterations is not None:
        return budget.iterations
    images: float
    if budget.images is not None:
        images = budget.images
    else:
        assert budget.passes is not None, "a budget has exactly one of the three"
        images = budget.passes * sum(unique_cases(recipe).values())
    runtime = recipe.runtime
    passes = runtime.gradient_accumulation_steps
    return math.ceil(images / (runtime.max_workers * runtime.micro_batch_size * passes))
