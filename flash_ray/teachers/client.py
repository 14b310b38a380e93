"""A worker's view of a group's actors: round robin, bounded, with retry where one is lost."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError
from torch import Tensor

from flash_ray.models.base import ConditionPair
from flash_ray.teachers.actor import pack, pack_conditions, unpack
from flash_ray.teachers.protocol import TeacherLost, UnknownRequest
from flash_ray.telemetry.metrics import PoolMetrics


class AutoscalerClient:
    """Reports a worker's requests to the autoscaler and learns from it of a group's teachers.

    Args:
        autoscaler: an `Autoscaler` actor.
        group: the position among the groups that are running.
        client: the name of this worker.
    """

    def __init__(self, autoscaler: ActorHandle, group: int, client: str):
        self._autoscaler, self._group, self._client = autoscaler, group, client
        self._version = ""
        self._extras: Mapping[int, ActorHandle] = {}
        self._replies: deque[ObjectRef] = deque()

    def track(self, teacher: int | None, answer: ObjectRef) -> None:
        """Reports a request of a teacher, known by its number; None: one of the minimum."""
        self._replies.append(
            self._autoscaler.track.remote(
                self._group, self._client, teacher, [answer], self._version
            )
        )

    def extra_teachers(self) -> Mapping[int, ActorHandle]:
        """The teachers beyond the minimum, by number, as the autoscaler's last reply has them."""
        while self._replies and ray.wait([self._replies[0]], timeout=0)[0]:
            try:
                membership = ray.get(self._replies.popleft())
            except RayActorError:  # it died, and its teachers with it; Ray restarts it
                membership = "", {}
            if membership:
                self._version, self._extras = membership
        return self._extras

    def remove(self, teacher: ActorHandle) -> None:
        """Forgets a teacher that died, before the autoscaler reports it."""
        self._extras = {n: actor for n, actor in self._extras.items() if actor != teacher}


ATTEMPTS = 5


def cause_of(error: Exception) -> str:
    """Why an actor died, in one line: its own error, or what Ray says of its process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("creation task" in line for line in lines[:2]):
        kind, _, message = lines[-1].partition(": ")
        return message if kind.endswith("UserError") else lines[-1]
    return " ".join(" ".join(lines).split())[:300] or type(error).__name__


@dataclass(frozen=True)
class _Teacher:
    """An actor; `number` is the autoscaler's, None for one of the minimum, which Ray restarts."""

    actor: ActorHandle
    number: int | None = None


@dataclass
class _Request:
    """A request, kept until it is answered, to be made again if its teacher dies."""

    teacher: _Teacher
    conditions: ObjectRef
    teacher_ids: Sequence[int]
    prefill: ObjectRef | None = None
    x_and_t: tuple[ObjectRef, ...] = ()


class TeacherPool:
    """Replicas of one group of teachers.

    Args:
        actors: the replicas that are always there.
        expected: the fingerprint that every answer must carry.
        max_in_flight: requests that may be open at once.
        client: a name of this worker that no other worker of these actors has: it keeps their
            requests apart.
        first: the position at which the round starts: this worker's rank.
        autoscaler: knows of teachers that come and go; None: there are none.
        patience_s: how long a restarted actor may take to load its model.
    """

    def __init__(
        self,
        actors: Sequence[ActorHandle],
        expected: str,
        max_in_flight: int = 2,
        client: str = "",
        first: int = 0,
        autoscaler: AutoscalerClient | None = None,
        patience_s: float = 600,
    ):
        self._always = [_Teacher(actor) for actor in actors]
        self._turn, self._autoscaler = first, autoscaler
        self._expected, self._max_in_flight = expected, max_in_flight
        self._client, self._patience_s = client, patience_s
        self._open: dict[int, _Request] = {}
        self._metrics = PoolMetrics()
        self.restarts = 0

    @property
    def has_capacity(self) -> bool:
        """Whether fewer than `max_in_flight` requests are open."""
        return len(self._open) < self._max_in_flight

    def extra_teachers(self) -> Mapping[int, ActorHandle]:
        """The teachers beyond the minimum, by number."""
        return self._autoscaler.extra_teachers() if self._autoscaler else {}

    def prefill(
        self, request_id: int, conditions: ConditionPair, teacher_ids: Sequence[int]
    ) -> None:
        """Announces a micro-batch to the replica whose turn it is; see `Teachers.prefill`.

        Raises:
            ValueError: `max_in_flight` requests are open.
        """
        if not self.has_capacity:
            raise ValueError(f"{len(self._open)} requests are open, {self._max_in_flight} may be")
        extras = [_Teacher(actor, number) for number, actor in self.extra_teachers().items()]
        teacher = self._next([*self._always, *extras])
        request = _Request(teacher, ray.put(pack_conditions(conditions)), teacher_ids)
        self._announce(request_id, request)
        self._open[request_id] = request
        self._metrics.opened(len(self._open))

    def score(self, request_id: int, x_BNC: Tensor, t_B: Tensor) -> "_PooledAnswer":
        """Asks the replica that took the announcement; see `Teachers.score`."""
        request = self._open[request_id]
        self._metrics.asked(request_id)
        request.x_and_t = (ray.put(pack(x_BNC)), ray.put(pack(t_B)))
        return _PooledAnswer(self, request_id, self._ask(request_id, request), x_BNC.device)

    def await_answer(self, request_id: int, answer: ObjectRef) -> dict[int, Tensor]:
        """The velocities; makes the whole request again, up to `ATTEMPTS` times, if its actor died.

        Raises:
            TeacherLost: no teacher answers, or one answers with other weights.
        """
        request = self._open[request_id]
        cause = ""
        for _ in range(ATTEMPTS):
            try:
                fingerprint, packed = ray.get(answer)
            except (RayActorError, ObjectLostError, UnknownRequest) as error:
                # ObjectLostError: its node died after the answer. UnknownRequest: the actor died,
                # and was restarted, between prefill and score.
                cause = cause_of(error)
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
        raise TeacherLost(f"a teacher died {ATTEMPTS} times on one request: {cause}")

    def _next(self, teachers: Sequence[_Teacher]) -> _Teacher:
        self._turn += 1
        return teachers[(self._turn - 1) % len(teachers)]

    def _announce(self, request_id: int, request: _Request) -> None:
        request.prefill = request.teacher.actor.prefill.remote(
            (self._client, request_id), request.conditions, request.teacher_ids
        )
        self._track(request.teacher, request.prefill)

    def _ask(self, request_id: int, request: _Request) -> ObjectRef:
        answer: ObjectRef = request.teacher.actor.score.remote(
            (self._client, request_id), *request.x_and_t, request.prefill
        )
        self._track(request.teacher, answer)
        return answer

    def _track(self, teacher: _Teacher, answer: ObjectRef) -> None:
        if self._autoscaler:
            self._autoscaler.track(teacher.number, answer)

    def _replacement(self, lost: _Teacher, cause: Exception) -> _Teacher:
        """The teacher in place of one that died: another of the minimum, or its own restart."""
        self.restarts += 1
        self._metrics.restarted(self.restarts)
        if self._autoscaler and lost.number is not None:
            self._autoscaler.remove(lost.actor)
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
                raise TeacherLost(
                    f"a teacher died more often than it may be restarted: {cause_of(error)}"
                ) from error
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() > until:
                    raise TeacherLost(
                        f"a teacher that died did not come back: {cause_of(cause)}"
                    ) from cause
                time.sleep(0.5)


@dataclass(frozen=True)
class _PooledAnswer:
    pool: TeacherPool
    request_id: int
    answer: ObjectRef
    device: torch.device

    def result(self) -> dict[int, Tensor]:
        velocities = self.pool.await_answer(self.request_id, self.answer)
        return {index: v_BNC.to(self.device) for index, v_BNC in velocities.items()}
