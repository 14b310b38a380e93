"""Teachers of a run as one object, and those that live in the worker's own process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.teachers.protocol import Answer, Group, Teachers
from flash_ray.teachers.scorer import Scorer


@dataclass(frozen=True)
class _Answer:
    """Known already."""

    velocities: dict[int, Tensor]

    def result(self) -> dict[int, Tensor]:
        return self.velocities


class InProcessTeachers:
    """A group that answers at once, on the worker's own device."""

    room = False  # nothing is gained by announcing ahead

    def __init__(self, scorer: Scorer):
        self._scorer = scorer

    def prefill(self, request_id: int, conditioned: ConditionPair, asked: Sequence[int]) -> None:
        self._scorer.prefill(request_id, conditioned, asked)

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> _Answer:
        velocities = self._scorer.score(request_id, x_BNC, t_B)
        return _Answer({index: v_BNC.to(x_BNC.device) for index, v_BNC in velocities.items()})


class TeacherRouter:
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

    def prefill(self, request_id: int, conditioned: ConditionPair, asked: Sequence[int]) -> None:
        wanted = {self._places[index] for index in asked}
        told = []
        for group, teachers in self._groups:
            if members := [place for place in group.members if place in wanted]:
                teachers.prefill(request_id, conditioned, members)
                told.append(teachers)
        self._asked[request_id] = asked, told

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> "_Answers":
        asked, told = self._asked.pop(request_id)
        parts = [teachers.score(request_id, x_BNC, t_B) for teachers in told]
        return _Answers(parts, {index: self._places[index] for index in asked})


@dataclass(frozen=True)
class _Answers:
    parts: list[Answer]
    places: Mapping[int, int]

    def result(self) -> dict[int, Tensor]:
        """The velocities of all groups, each awaited in turn while the others work on."""
        found = {place: v_BNC for part in self.parts for place, v_BNC in part.result().items()}
        return {index: found[place] for index, place in self.places.items()}
