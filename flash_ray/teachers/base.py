"""What a teacher offers to the training loop, wherever it runs."""

from typing import Protocol

from torch import Tensor

from flash_ray.backbones.base import Conditioned


class TeacherLost(RuntimeError):
    """A teacher does not answer any more, or answers with other weights than the run began with."""


class UnknownTicket(LookupError):
    """A question about a micro-batch that was not announced to this teacher since it started."""


class Answer(Protocol):
    """A velocity that may still be on its way."""

    def result(self) -> Tensor:
        """v_real_BNC, fp32, on the question's device. Raises TeacherLost."""


class Teacher(Protocol):
    """One ticket for each micro-batch: announced once by `prefill`, then asked once by `score`."""

    def prefill(self, ticket: int, conditioned: Conditioned) -> None:
        """Announces a micro-batch, so that its keys and values can be computed ahead."""

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> Answer:
        """Asks for the guided velocity at x_t = x_BNC, t in [0, 1]; returns at once."""

    @property
    def room(self) -> bool:
        """Whether another ticket may be announced now."""
