"""Teachers that are running: those of one recipe, or of several that share them."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.autoscaler import Pace, start_autoscaler
from flash_ray.teachers.client import AutoscalerClient, TeacherPool
from flash_ray.teachers.protocol import groups


@dataclass(frozen=True)
class TeacherSet:
    """Running teachers.

    Args:
        recipe: lists them.
        actors: of each of that recipe's groups, the fewest that it may have.
        autoscaler: hires and dismisses others; None: the recipe has fixed numbers.
    """

    recipe: Recipe
    actors: Sequence[Sequence[ActorHandle]]
    autoscaler: ActorHandle | None

    def places(self, recipe: Recipe) -> list[int]:
        """For each teacher of a recipe its position among those that are running."""
        running = [_what(self.recipe, teacher) for teacher in self.recipe.teachers]
        return [running.index(_what(recipe, teacher)) for teacher in recipe.teachers]

    def pool(self, group: int, weights: str, run_name: str, rank: int) -> TeacherPool:
        """A group as a worker of a run sees it; `weights`: the fingerprint of every answer."""
        # Runs of a study share teachers and number their tickets alike: so the run's name.
        client = f"{run_name}/{rank}"
        register = AutoscalerClient(self.autoscaler, group, client) if self.autoscaler else None
        in_flight = self.recipe.teacher_defaults.max_in_flight
        return TeacherPool(self.actors[group], weights, in_flight, client, rank, register)

    def stop(self) -> None:
        if self.autoscaler:
            ray.kill(self.autoscaler)  # those it hired end with it, placed or not
        for actors in self.actors:
            for actor in actors:
                ray.kill(actor)


def start_teachers(recipe: Recipe, pace: Pace = Pace()) -> TeacherSet:  # noqa: B008 (frozen)
    """Starts the fewest teachers that a recipe asks for, without waiting for them, and what hires
    more at that pace."""
    restarts = recipe.runtime.max_failures
    actors = [
        [start_teacher(recipe, group, restarts) for _ in range(group.fewest)]
        for group in groups(recipe)
    ]
    return TeacherSet(recipe, actors, start_autoscaler(recipe, pace))


def all_teachers(recipes: Sequence[Recipe]) -> Recipe:
    """The first recipe with the different teachers of all, each with its own guidance stated.

    It names teachers only: their λ no longer sum to 1.
    """
    found: dict[tuple[str, float, bool], Teacher] = {}
    for recipe in recipes:
        for teacher in recipe.teachers:
            model, guidance, rescale = what = _what(recipe, teacher)
            stated = {"model": model, "guidance_scale": guidance, "guidance_rescale": rescale}
            stated["name"] = f"{teacher.name}-{len(found)}"
            found.setdefault(what, teacher.model_copy(update=stated))
    return recipes[0].model_copy(update={"teachers": tuple(found.values())})


def _what(recipe: Recipe, teacher: Teacher) -> tuple[str, float, bool]:
    """What decides a teacher's answers, for one base and precision."""
    model = "base" if teacher.model == recipe.base else teacher.model
    return model, *recipe.guidance_of(teacher)
