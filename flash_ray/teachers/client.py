"""A worker's view of a group's actors: round robin, bounded, with retry where one is lost."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError
from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.teachers.actor import pack, pack_conditions, unpack
from flash_ray.teachers.protocol import TeacherLost, UnknownRequest
from flash_ray.telemetry.metrics import PoolMetrics


class AutoscalerClient:
    """Of one group.

    Args:
        autoscaler: a `Autoscaler`.
        group: its position among those that are running.
        client: this worker.
    """

    def __init__(self, autoscaler: ActorHandle, group: int, client: str):
        self._registrar, self._group, self._client = autoscaler, group, client
        self._version = ""
        self._hired: Mapping[int, ActorHandle] = {}
        self._replies: deque[ObjectRef] = deque()

    def note(self, teacher: int | None, answer: ObjectRef) -> None:
        """That a teacher was asked, by its number; None: one of the minimum."""
        follow = self._registrar.follow
        self._replies.append(
            follow.remote(self._group, self._client, teacher, [answer], self._version)
        )

    def hired(self) -> Mapping[int, ActorHandle]:
        """The teachers beyond the minimum, by number, as far as was heard until now."""
        while self._replies and ray.wait([self._replies[0]], timeout=0)[0]:
            try:
                news = ray.get(self._replies.popleft())
            except RayActorError:  # it died, and they with it; Ray restarts it
                news = "", {}
            if news:
                self._version, self._hired = news
        return self._hired

    def lost(self, teacher: ActorHandle) -> None:
        """That a teacher is gone, before the autoscaler says so."""
        self._hired = {n: actor for n, actor in self._hired.items() if actor != teacher}


ATTEMPTS = 5


@dataclass(frozen=True)
class _Teacher:
    """`number`: what the autoscaler calls it; None: it is of the minimum, and restarted."""

    actor: ActorHandle
    number: int | None = None


@dataclass
class _Request:
    """A request_id's whole story, kept until it is answered, to be told again if its teacher dies."""

    teacher: _Teacher
    conditioned: Any
    asked: Sequence[int]
    prefill: Any = None
    question: tuple[Any, Any] | None = None


class TeacherPool:
    """Replicas of one group of teachers.

    Args:
        actors: the replicas that are always there.
        expected: fingerprint that every answer must carry.
        max_in_flight: tickets that may be open at once.
        client: this worker, as no other that asks these actors is called: it keeps their tickets
            apart.
        first: the position at which the round starts: this worker's rank.
        register: knows of teachers that come and go; None: there are none.
        patience_s: how long a restarted actor may take to load its model.
    """

    def __init__(
        self,
        actors: Sequence[ActorHandle],
        expected: str,
        max_in_flight: int = 2,
        client: str = "",
        first: int = 0,
        register: AutoscalerClient | None = None,
        patience_s: float = 600,
    ):
        self._always = [_Teacher(actor) for actor in actors]
        self._turn, self._autoscaler = first, register
        self._expected, self._max_in_flight = expected, max_in_flight
        self._client, self._patience_s = client, patience_s
        self._open: dict[int, _Request] = {}
        self._metrics = PoolMetrics()
        self.restarts = 0

    @property
    def room(self) -> bool:
        return len(self._open) < self._max_in_flight

    def prefill(self, request_id: int, conditioned: ConditionPair, asked: Sequence[int]) -> None:
        if not self.room:
            raise ValueError(f"{len(self._open)} tickets are open, {self._max_in_flight} may be")
        hired = self._autoscaler.hired() if self._autoscaler else {}
        teachers = [*self._always, *(_Teacher(actor, number) for number, actor in hired.items())]
        request = _Request(self._next(teachers), ray.put(pack_conditions(conditioned)), asked)
        self._announce(request_id, request)
        self._open[request_id] = request
        self._metrics.opened(len(self._open))

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> "_Answer":
        request = self._open[request_id]
        self._metrics.asked(request_id)
        request.question = (ray.put(pack(x_BNC)), ray.put(pack(t_B)))
        return _Answer(self, request_id, self._ask(request_id, request), x_BNC.device)

    def await_answer(self, request_id: int, answer: Any) -> dict[int, Tensor]:
        """The velocities; tells the whole story again, to `ATTEMPTS` times, if the actor died."""
        request = self._open[request_id]
        for _ in range(ATTEMPTS):
            try:
                fingerprint, packed = ray.get(answer)
            except (RayActorError, ObjectLostError, UnknownRequest) as error:
                # ObjectLostError: its node died after the answer. UnknownRequest: the actor died,
                # and was restarted, before the question.
                request.teacher = self._replacement(request.teacher, error)
                self._announce(request_id, request)
                answer = self._ask(request_id, request)
                continue
            if fingerprint != self._expected:
                raise TeacherLost(
                    f"a teacher answers with weights {fingerprint}, the run began with "
                    f"{self._expected}; its model was replaced"
                )
            del self._open[request_id]
            self._metrics.answered(request_id, len(self._open))
            return {index: unpack(v) for index, v in packed.items()}
        raise TeacherLost(f"a teacher died {ATTEMPTS} times on one question")

    def _next(self, teachers: Sequence[_Teacher]) -> _Teacher:
        self._turn += 1
        return teachers[(self._turn - 1) % len(teachers)]

    def _announce(self, request_id: int, request: _Request) -> None:
        prefill = request.teacher.actor.prefill
        name = (self._client, request_id)
        request.prefill = prefill.remote(name, request.conditioned, request.asked)
        self._note(request.teacher, request.prefill)

    def _ask(self, request_id: int, request: _Request) -> Any:
        score = request.teacher.actor.score
        answer = score.remote((self._client, request_id), *request.question, request.prefill)
        self._note(request.teacher, answer)
        return answer

    def _note(self, teacher: _Teacher, answer: Any) -> None:
        if self._autoscaler:
            self._autoscaler.note(teacher.number, answer)

    def _replacement(self, lost: _Teacher, cause: Exception) -> _Teacher:
        """Who answers in place of a teacher that died: one that is always there, or its restart."""
        self.restarts += 1
        self._metrics.restarted(self.restarts)
        if lost.number is not None:
            self._autoscaler.lost(lost.actor)
            return self._next(self._always)
        self._await_restart(lost.actor, cause)
        return lost

    def _await_restart(self, actor: ActorHandle, cause: Exception) -> None:
        """Waits until Ray has restarted the actor; TeacherLost if it will not."""
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
    request_id: int
    reference: Any
    device: Any

    def result(self) -> dict[int, Tensor]:
        velocities = self.pool.await_answer(self.request_id, self.reference)
        return {index: v_BNC.to(self.device) for index, v_BNC in velocities.items()}
