"""Teachers of a run as one object, and those that live in the worker's own process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.teachers.protocol import Answer, Group, Teachers
from flash_ray.teachers.scorer import Scorer


@dataclass(frozen=True)
class _LocalAnswer:
    """Velocities that are known already."""

    velocities: dict[int, Tensor]

    def result(self) -> dict[int, Tensor]:
        return self.velocities


class InProcessTeachers:
    """A group that answers at once, on the worker's own device; its methods are `Teachers`'."""

    has_capacity = False  # nothing is gained by announcing ahead

    def __init__(self, scorer: Scorer):
        self._scorer = scorer

    def prefill(
        self, request_id: int, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        # Nothing is computed ahead: it would take the worker's own time, and a second pass.
        self._scorer.announce(request_id, conditions, teacher_ids)

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> _LocalAnswer:
        velocities = self._scorer.score(request_id, x_BNC, t_B)
        return _LocalAnswer({index: v_BNC.to(x_BNC.device) for index, v_BNC in velocities.items()})


class TeacherRouter:
    """Teachers of several groups, each behind actors or in the worker's process, as one `Teachers`.

    Args:
        groups: the members are positions among all teachers that are running.
        positions: for each of the run's teachers its position among those.
    """

    def __init__(self, groups: Sequence[tuple[Group, Teachers]], positions: Sequence[int]):
        self._groups, self._positions = groups, positions
        self._open: dict[int, tuple[Sequence[int], list[Teachers]]] = {}

    @property
    def has_capacity(self) -> bool:
        return all(teachers.has_capacity for _, teachers in self._groups)

    def prefill(
        self, request_id: int, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        wanted = {self._positions[index] for index in teacher_ids}
        announced = []
        for group, teachers in self._groups:
            if members := [position for position in group.members if position in wanted]:
                teachers.prefill(request_id, conditions, members)
                announced.append(teachers)
        self._open[request_id] = teacher_ids, announced

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> "_RoutedAnswer":
        teacher_ids, announced = self._open.pop(request_id)
        answers = [teachers.score(request_id, x_BNC, t_B) for teachers in announced]
        return _RoutedAnswer(answers, {index: self._positions[index] for index in teacher_ids})


@dataclass(frozen=True)
class _RoutedAnswer:
    answers: list[Answer]
    positions: Mapping[int, int]

    def result(self) -> dict[int, Tensor]:
        """The velocities of all groups, each awaited in turn while the others work on."""
        velocities = {
            position: v_BNC
            for answer in self.answers
            for position, v_BNC in answer.result().items()
        }
        return {index: velocities[position] for index, position in self.positions.items()}
