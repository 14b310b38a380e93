"""A worker's view of a group's actors: round robin, bounded, with retry after a restart."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from torch import Tensor

from flash_ray.backbones.base import Conditioned
from flash_ray.teachers.base import TeacherLost, UnknownTicket
from flash_ray.teachers.wire import pack, pack_conditioned, unpack
from flash_ray.telemetry.metrics import PoolMetrics

ATTEMPTS = 5


@dataclass
class _Request:
    """A ticket's whole story, kept until it is answered, to be told again to a restarted actor."""

    actor: ActorHandle
    conditioned: Any
    asked: Sequence[int]
    prefilled: Any
    question: tuple[Any, Any] | None = None


class TeacherPool:
    """Replicas of one group of teachers.

    Args:
        actors: the replicas.
        expected: fingerprint that every answer must carry.
        max_in_flight: tickets that may be open at once.
        client: this worker's rank: keeps tickets of several workers apart, and starts the round.
        patience_s: how long a restarted actor may take to load its model.
    """

    def __init__(
        self,
        actors: Sequence[ActorHandle],
        expected: str,
        max_in_flight: int = 2,
        client: int = 0,
        patience_s: float = 600,
    ):
        first = client % len(actors)
        self._round = cycle([*actors[first:], *actors[:first]])
        self._expected, self._max_in_flight = expected, max_in_flight
        self._client, self._patience_s = client, patience_s
        self._open: dict[int, _Request] = {}
        self._metrics = PoolMetrics()
        self.restarts = 0

    @property
    def room(self) -> bool:
        return len(self._open) < self._max_in_flight

    def prefill(self, ticket: int, conditioned: Conditioned, asked: Sequence[int]) -> None:
        if not self.room:
            raise ValueError(f"{len(self._open)} tickets are open, {self._max_in_flight} may be")
        actor, shipped = next(self._round), ray.put(pack_conditioned(conditioned))
        prefilled = actor.prefill.remote((self._client, ticket), shipped, asked)
        self._open[ticket] = _Request(actor, shipped, asked, prefilled)
        self._metrics.opened(len(self._open))

    def score(self, ticket: int, x_BNC: Tensor, t_B: Tensor) -> "_Answer":
        request = self._open[ticket]
        self._metrics.asked(ticket)
        request.question = (ray.put(pack(x_BNC)), ray.put(pack(t_B)))
        return _Answer(self, ticket, self._ask(ticket, request), x_BNC.device)

    def await_answer(self, ticket: int, answer: Any) -> dict[int, Tensor]:
        """The velocities; tells the whole story again, to `ATTEMPTS` times, if the actor died."""
        request = self._open[ticket]
        for _ in range(ATTEMPTS):
            try:
                fingerprint, packed = ray.get(answer)
            except (RayActorError, UnknownTicket) as error:
                # UnknownTicket: the actor died, and was restarted, before the question.
                self._await_restart(request.actor, error)
                name = (self._client, ticket)
                request.prefilled = request.actor.prefill.remote(
                    name, request.conditioned, request.asked
                )
                answer = self._ask(ticket, request)
                continue
            if fingerprint != self._expected:
                raise TeacherLost(
                    f"a teacher answers with weights {fingerprint}, the run began with "
                    f"{self._expected}; its model was replaced"
                )
            del self._open[ticket]
            self._metrics.answered(ticket, len(self._open))
            return {index: unpack(v) for index, v in packed.items()}
        raise TeacherLost(f"a teacher died {ATTEMPTS} times on one question")

    def _ask(self, ticket: int, request: _Request) -> Any:
        name = (self._client, ticket)
        return request.actor.score.remote(name, *request.question, request.prefilled)

    def _await_restart(self, actor: ActorHandle, cause: Exception) -> None:
        """Waits until Ray has restarted the actor; TeacherLost if it will not."""
        self.restarts += 1
        self._metrics.restarted(self.restarts)
        until = time.monotonic() + self._patience_s
        while True:
            try:
                ray.get(actor.fingerprint.remote(), timeout=self._patience_s)
                return
            except ray.exceptions.ActorDiedError as error:
                raise TeacherLost("a teacher died more often than it may be restarted") from error
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() > until:
                    raise TeacherLost("a teacher that died did not come back") from cause
                time.sleep(0.5)


@dataclass(frozen=True)
class _Answer:
    pool: TeacherPool
    ticket: int
    reference: Any
    device: Any

    def result(self) -> dict[int, Tensor]:
        velocities = self.pool.await_answer(self.ticket, self.reference)
        return {index: v_BNC.to(self.device) for index, v_BNC in velocities.items()}
