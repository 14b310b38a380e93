"""What teachers offer to the training loop, and which of them share one copy of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.models.loading import is_lora
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher


class TeacherLost(RuntimeError):
    """A teacher does not answer any more, or answers with other weights than the run began with."""


class UnknownRequest(LookupError):
    """A question about a micro-batch that was not announced to this teacher since it started."""


class Answer(Protocol):
    """Velocities that may still be on their way."""

    def result(self) -> dict[int, Tensor]:
        """v_BNC, fp32, on the question's device, by teacher. Raises TeacherLost."""


class Teachers(Protocol):
    """One request_id for each micro-batch: announced once by `prefill`, then asked once by `score`.

    Teachers are known by their positions in the recipe.
    """

    def prefill(self, request_id: int, conditioned: ConditionPair, asked: Sequence[int]) -> None:
        """Announces a micro-batch to some teachers, so that they can compute ahead."""

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> Answer:
        """Asks those teachers for their guided velocities at x_t = x_BNC, t in [0, 1]."""

    @property
    def room(self) -> bool:
        """Whether another request_id may be announced now."""


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
    asked = [
        recipe.teachers[index].replicas or recipe.teacher_defaults.replicas for index in members
    ]
    spans = [(n, n) if isinstance(n, int) else (n.min, n.max) for n in asked]
    return Group(pipeline, tuple(members), *map(max, zip(*spans, strict=True)))


def _pipeline(recipe: Recipe, teacher: Teacher) -> str:
    shares_base = teacher.model in ("base", recipe.base) or is_lora(teacher.model)
    return recipe.base if shares_base else teacher.model
