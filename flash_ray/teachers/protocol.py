"""What teachers offer to the training loop, and which of them share one copy of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.models.lora_source import is_lora
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teacher


class TeacherLost(RuntimeError):
    """A teacher does not answer any more, or answers with other weights than the run began with."""


class UnknownRequest(LookupError):
    """A score is requested that was not announced to this teacher since it started."""


class Answer(Protocol):
    """Velocities that may still be on their way."""

    def result(self) -> dict[int, Tensor]:
        """v_BNC of each teacher, fp32, on the device of the x_BNC that was sent.

        Raises TeacherLost.
        """


class Teachers(Protocol):
    """Teachers that take one request for each micro-batch: `prefill` announces it, `score` asks.

    Teachers are known by their positions in the recipe.
    """

    def prefill(
        self, request_id: int, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        """Announces a micro-batch to some teachers, so that they can compute ahead."""

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> Answer:
        """Asks those teachers for their guided velocities at x_t = x_BNC, t in [0, 1]."""

    @property
    def has_capacity(self) -> bool:
        """Whether another request may be announced now."""


@dataclass(frozen=True)
class Group:
    """Teachers of one pipeline: the base with its LoRAs, or a pipeline of their own.

    Args:
        pipeline: the recipe's base, or a teacher's folder or hub id.
        members: positions in the recipe's list of teachers.
        min_actors, max_actors: the largest numbers that a member asks for.
    """

    pipeline: str
    members: tuple[int, ...]
    min_actors: int
    max_actors: int


def groups(recipe: Recipe) -> list[Group]:
    """The recipe's groups, in the order of their first members."""
    members: dict[str, list[int]] = {}
    for index, teacher in enumerate(recipe.teachers):
        members.setdefault(_pipeline(recipe, teacher), []).append(index)
    return [_group(recipe, pipeline, indices) for pipeline, indices in members.items()]


def teacher_actors(recipe: Recipe) -> int:
    """How many teacher actors a run starts with, the fewest that it may have; 0 for in_process."""
    if recipe.teacher_defaults.placement != "actors":
        return 0
    return sum(group.min_actors for group in groups(recipe))


def teachers_share_base(recipe: Recipe) -> bool:
    """Whether teachers in a worker's process answer from the base that the student stands on; else
    from another one, which is not quantized."""
    return recipe.training.base_format is None or recipe.teacher_defaults.quantized


def _group(recipe: Recipe, pipeline: str, members: list[int]) -> Group:
    replicas = [
        recipe.teachers[index].replicas or recipe.teacher_defaults.replicas for index in members
    ]
    ranges = [(n, n) if isinstance(n, int) else (n.min, n.max) for n in replicas]
    return Group(pipeline, tuple(members), *map(max, zip(*ranges, strict=True)))


def _pipeline(recipe: Recipe, teacher: Teacher) -> str:
    shares_base = teacher.model in ("base", recipe.base) or is_lora(teacher.model)
    return recipe.base if shares_base else teacher.model
