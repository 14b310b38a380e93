"""The twin of the actors: a copy of the teachers in the worker itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flash_ray.backbones.base import Conditioned
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

    def prefill(self, ticket: int, conditioned: Conditioned, asked: Sequence[int]) -> None:
        self._scorer.prefill(ticket, conditioned, asked)

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> _Answer:
        velocities = self._scorer.score(ticket, x_BNC, t_B)
        return _Answer({index: v_BNC.to(x_BNC.device) for index, v_BNC in velocities.items()})
