"""The combinations of a study's space, each a recipe that can be run."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.studies.study import Study, changed_recipe

MOST = 1000  # each is checked before anything starts


@dataclass(frozen=True)
class Combination:
    """One value for every path of the space.

    Args:
        number: its position among all combinations, from 0.
        choice: for each path the position of the value in its list, from 0.
        recipe: named as the trial.
    """

    number: int
    choice: tuple[int, ...]
    values: dict[str, Any]
    recipe: Recipe


def combinations(study: Study) -> list[Combination]:
    """All combinations of a space, the last path's values changing fastest.

    Raises:
        UserError: there is no space, it is too large, it is never scored, or values contradict
            each other.
    """
    _validate_space(study)
    all_combinations = []
    ranges = [range(len(values)) for values in study.space.values()]
    for number, choice in enumerate(itertools.product(*ranges)):
        pairs = zip(study.space.items(), choice, strict=True)
        values = {path: options[index] for (path, options), index in pairs}
        words = ", ".join(f"{path}={value}" for path, value in values.items())
        try:
            recipe = changed_recipe(study, values, study.seeds[0])
        except UserError as error:
            raise UserError(f"space: with {words}: {error}") from error
        if study.curve_every > recipe.training.iterations:
            raise UserError(
                f"curve_every: {study.curve_every} with {recipe.training.iterations} iterations of "
                f"{words}, which would never be scored; allowed: 1 to as many; lower it"
            )
        recipe = recipe.model_copy(update={"name": f"{run_prefix(study)}{number}"})
        all_combinations.append(Combination(number, choice, values, recipe))
    return all_combinations


def run_prefix(study: Study) -> str:
    """What the names of a search's runs begin with; the _ keeps them apart from arms' runs."""
    return f"{study.name}_search_"


def _validate_space(study: Study) -> None:
    if not study.space:
        raise UserError(
            f"space: {study.name} has none; allowed: values to choose from by dotted path; add "
            "e.g. space: {teacher_defaults.guidance_scale: [2, 4]}"
        )
    if not study.curve_every:
        raise UserError(
            "curve_every: 0 in a search, which stops trials by their scores; allowed: 1 or more "
            "iterations; set it, e.g. to a quarter of the budget"
        )
    if not study.development:
        raise UserError(
            "development: 0 in a search, which sees these cases alone; allowed: 1 or more of each "
            "category; set it, e.g. to 6"
        )
    size = math.prod(len(values) for values in study.space.values())
    if size > MOST:
        raise UserError(
            f"space: {size:,} combinations; allowed: up to {MOST:,}; leave out values or paths"
        )
