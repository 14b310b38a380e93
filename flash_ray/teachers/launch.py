"""Starts teachers: those of one recipe, or of several that share them."""

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.autoscaler import ScalingPolicy, start_autoscaler
from flash_ray.teachers.client import AutoscalerClient, TeacherPool
from flash_ray.teachers.protocol import groups


@dataclass(frozen=True)
class TeacherSet:
    """Running teachers.

    Args:
        recipe: lists them.
        actors: for each of that recipe's groups its minimum of actors.
        autoscaler: starts and stops others; None: the recipe has fixed numbers.
    """

    recipe: Recipe
    actors: Sequence[Sequence[ActorHandle]]
    autoscaler: ActorHandle | None

    def positions(self, recipe: Recipe) -> list[int]:
        """For each teacher of a recipe its position among those that are running."""
        running = [_identity(self.recipe, teacher) for teacher in self.recipe.teachers]
        return [running.index(_identity(recipe, teacher)) for teacher in recipe.teachers]

    def pool(self, group: int, weights: str, run_name: str, rank: int) -> TeacherPool:
        """A group as a worker of a run sees it; `weights`: the fingerprint of every answer."""
        # Runs of a study share teachers and number their requests alike: so the run's name.
        client = f"{run_name}/{rank}"
        autoscaler = AutoscalerClient(self.autoscaler, group, client) if self.autoscaler else None
        max_in_flight = self.recipe.teacher_defaults.max_in_flight
        return TeacherPool(self.actors[group], weights, max_in_flight, client, rank, autoscaler)

    def stop(self) -> None:
        """Ends all teachers."""
        if self.autoscaler:
            ray.kill(self.autoscaler)  # the teachers that it started end with it, ready or not
        for actors in self.actors:
            for actor in actors:
                ray.kill(actor)


def start_teachers(
    recipe: Recipe,
    policy: ScalingPolicy = ScalingPolicy(),  # noqa: B008 (frozen)
) -> TeacherSet:
    """Starts the fewest teachers that a recipe asks for, and an autoscaler where it may have more.

    It does not wait until they are ready.
    """
    restarts = recipe.runtime.max_failures
    actors = [
        [start_teacher(recipe, group, restarts) for _ in range(group.min_actors)]
        for group in groups(recipe)
    ]
    return TeacherSet(recipe, actors, start_autoscaler(recipe, policy))


def all_teachers(recipes: Sequence[Recipe]) -> Recipe:
    """The first recipe with the different teachers of all, each with its own guidance stated.

    It names teachers only: their λ no longer sum to 1.
    """
    teachers: dict[tuple[str, float, bool], Teacher] = {}
    for recipe in recipes:
        for teacher in recipe.teachers:
            model, scale, rescale = identity = _identity(recipe, teacher)
            stated = {"model": model, "guidance_scale": scale, "guidance_rescale": rescale}
            stated["name"] = f"{teacher.name}-{len(teachers)}"
            teachers.setdefault(identity, teacher.model_copy(update=stated))
    return recipes[0].model_copy(update={"teachers": tuple(teachers.values())})


def _identity(recipe: Recipe, teacher: Teacher) -> tuple[str, float, bool]:
    """What decides a teacher's answers, for one base and precision: model and guidance."""
    model = "base" if teacher.model == recipe.base else teacher.model
    return model, *recipe.guidance_of(teacher)
