"""What teachers offer to the training loop, wherever they run."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from flash_ray.backbones.base import Conditioned


class TeacherLost(RuntimeError):
    """A teacher does not answer any more, or answers with other weights than the run began with."""


class UnknownTicket(LookupError):
    """A question about a micro-batch that was not announced to this teacher since it started."""


class Answer(Protocol):
    """Velocities that may still be on their way."""

    def result(self) -> dict[int, Tensor]:
        """v_BNC, fp32, on the question's device, by teacher. Raises TeacherLost."""


class Teachers(Protocol):
    """One ticket for each micro-batch: announced once by `prefill`, then asked once by `score`.

    Teachers are known by their positions in the recipe.
    """

    def prefill(self, ticket: int, conditioned: Conditioned, asked: Sequence[int]) -> None:
        """Announces a micro-batch to some teachers, so that they can compute ahead."""

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> Answer:
        """Asks those teachers for their guided velocities at x_t = x_BNC, t in [0, 1]."""

    @property
    def room(self) -> bool:
        """Whether another ticket may be announced now."""
