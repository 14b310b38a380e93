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
        fewest, most: actors, the largest numbers that a member asks for.
    """

    pipeline: str
    members: tuple[int, ...]
    fewest: int
    most: int


def groups(recipe: Recipe) -> list[Group]:
    """The recipe's groups, in the order of their first members."""
    members: dict[str, list[int]] = {}
    for index, teacher in enumerate(recipe.teachers):
        members.setdefault(_pipeline(recipe, teacher), []).append(index)
    return [_group(recipe, pipeline, found) for pipeline, found in members.items()]


def _group(recipe: Recipe, pipeline: str, members: list[int]) -> Group:
    asked = [recipe.teachers[index].replicas or recipe.teaching.replicas for index in members]
    spans = [(n, n) if isinstance(n, int) else (n.min, n.max) for n in asked]
    return Group(pipeline, tuple(members), *map(max, zip(*spans, strict=True)))


def _pipeline(recipe: Recipe, teacher: Teacher) -> str:
    shares_base = teacher.model in ("base", recipe.base) or is_lora(teacher.model)
    return recipe.base if shares_base else teacher.model
