"""Which of a recipe's teachers share one copy of a pipeline's weights, and in how many actors."""

from dataclasses import dataclass

from flash_ray.backbones.load import is_lora
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher


@dataclass(frozen=True)
class Group:
    """Teachers of one pipeline: the base with its LoRAs, or one of its own.

    Args:
        pipeline: the recipe's base, or a teacher's folder or hub id.
        members: positions in the recipe's list of teachers.
        replicas: actors, the largest number that a member asks for.
    """

    pipeline: str
    members: tuple[int, ...]
    replicas: int


def groups(recipe: Recipe) -> list[Group]:
    """The recipe's groups, in the order of their first members."""
    members: dict[str, list[int]] = {}
    for index, teacher in enumerate(recipe.teachers):
        members.setdefault(_pipeline(recipe, teacher), []).append(index)
    return [
        Group(pipeline, tuple(found), max(_replicas(recipe, index) for index in found))
        for pipeline, found in members.items()
    ]


def _pipeline(recipe: Recipe, teacher: Teacher) -> str:
    shares_base = teacher.model in ("base", recipe.base) or is_lora(teacher.model)
    return recipe.base if shares_base else teacher.model


def _replicas(recipe: Recipe, index: int) -> int:
    return recipe.teachers[index].replicas or recipe.teaching.replicas
