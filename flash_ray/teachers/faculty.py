"""All teachers of a run as one: each question goes to the groups whose members are asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from flash_ray.backbones.base import Conditioned
from flash_ray.teachers.base import Answer, Teachers
from flash_ray.teachers.groups import Group


class Faculty:
    """Teachers of several groups, each behind actors or in the worker's process.

    Args:
        groups: with the positions of their members among all that are running.
        places: for each of the run's teachers that position.
    """

    def __init__(self, groups: Sequence[tuple[Group, Teachers]], places: Sequence[int]):
        self._groups, self._places = groups, places
        self._asked: dict[int, tuple[Sequence[int], list[Teachers]]] = {}

    @property
    def room(self) -> bool:
        return all(teachers.room for _, teachers in self._groups)

    def prefill(self, ticket: int, conditioned: Conditioned, asked: Sequence[int]) -> None:
        wanted = {self._places[index] for index in asked}
        told = []
        for group, teachers in self._groups:
            if members := [place for place in group.members if place in wanted]:
                teachers.prefill(ticket, conditioned, members)
                told.append(teachers)
        self._asked[ticket] = asked, told

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> "_Answers":
        asked, told = self._asked.pop(ticket)
        parts = [teachers.score(ticket, x_BNC, t_B) for teachers in told]
        return _Answers(parts, {index: self._places[index] for index in asked})


@dataclass(frozen=True)
class _Answers:
    parts: list[Answer]
    places: Mapping[int, int]

    def result(self) -> dict[int, Tensor]:
        """The velocities of all groups, each awaited in turn while the others work on."""
        found = {place: v_BNC for part in self.parts for place, v_BNC in part.result().items()}
        return {index: found[place] for index, place in self.places.items()}
