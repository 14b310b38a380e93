"""Teachers that are running: those of one recipe, or of several that share them."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher
from flash_ray.teachers.actor import start_teachers


@dataclass(frozen=True)
class Roster:
    """Running teachers.

    Args:
        recipe: lists them.
        actors: of each of that recipe's groups.
    """

    recipe: Recipe
    actors: Sequence[Sequence[ActorHandle]]

    def places(self, recipe: Recipe) -> list[int]:
        """For each teacher of a recipe its position among those that are running."""
        running = [_what(self.recipe, teacher) for teacher in self.recipe.teachers]
        return [running.index(_what(recipe, teacher)) for teacher in recipe.teachers]

    def stop(self) -> None:
        for actors in self.actors:
            for actor in actors:
                ray.kill(actor)


def hire(recipe: Recipe) -> Roster:
    """Starts a recipe's teachers, without waiting for them."""
    return Roster(recipe, start_teachers(recipe))


def all_teachers(recipes: Sequence[Recipe]) -> Recipe:
    """The first recipe with the different teachers of all, each with its own guidance stated.

    It names teachers only: their λ no longer sum to 1.
    """
    found: dict[tuple[str, float, bool], Teacher] = {}
    for recipe in recipes:
        for teacher in recipe.teachers:
            model, guidance, rescale = what = _what(recipe, teacher)
            stated = {"model": model, "guidance": guidance, "rescale": rescale}
            stated["name"] = f"{teacher.name}-{len(found)}"
            found.setdefault(what, teacher.model_copy(update=stated))
    return recipes[0].model_copy(update={"teachers": tuple(found.values())})


def _what(recipe: Recipe, teacher: Teacher) -> tuple[str, float, bool]:
    """What decides a teacher's answers, for one base and precision."""
    model = "base" if teacher.model == recipe.base else teacher.model
    return model, *recipe.guidance_of(teacher)
