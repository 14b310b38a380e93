"""All teachers of a run as one: each question goes to the groups whose members are asked."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flash_ray.backbones.base import Conditioned
from flash_ray.teachers.base import Answer, Teachers
from flash_ray.teachers.groups import Group


class Faculty:
    """Teachers of several groups, each behind actors or in the worker's process."""

    def __init__(self, groups: Sequence[tuple[Group, Teachers]]):
        self._groups = groups
        self._asked: dict[int, list[Teachers]] = {}

    @property
    def room(self) -> bool:
        return all(teachers.room for _, teachers in self._groups)

    def prefill(self, ticket: int, conditioned: Conditioned, asked: Sequence[int]) -> None:
        self._asked[ticket] = []
        for group, teachers in self._groups:
            if mine := [index for index in asked if index in group.members]:
                teachers.prefill(ticket, conditioned, mine)
                self._asked[ticket].append(teachers)

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> "_Answers":
        asked = self._asked.pop(ticket)
        return _Answers([teachers.score(ticket, x_BNC, t_B) for teachers in asked])


@dataclass(frozen=True)
class _Answers:
    parts: list[Answer]

    def result(self) -> dict[int, Tensor]:
        """The velocities of all groups, each awaited in turn while the others work on."""
        return {index: v_BNC for part in self.parts for index, v_BNC in part.result().items()}
