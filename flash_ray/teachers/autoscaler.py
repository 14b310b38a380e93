"""Starts teachers beyond the minimum while requests wait, and stops those that are idle.

One actor serves all workers of a run, or of a study, on the driver's node. The teachers that it
starts die with it.
"""

import asyncio
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import cast

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flash_ray.recipe import Recipe
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.protocol import Group, groups


@dataclass(frozen=True)
class ScalingPolicy:
    """When the number of a group's teachers changes.

    The two loads lie far enough apart that no number of teachers is both too small and too large:
    where scaling down leaves half a request per teacher, even a queue of random arrivals (M/M/1)
    holds one request per teacher on average, which is below `scale_up_load`.

    Args:
        scale_up_load: requests per teacher, on average over `scale_up_after_s`, above which
            teachers are added.
        scale_down_load: requests per teacher that would be left with fewer of them, on average over
            `scale_down_after_s`, up to which teachers are removed.
        scale_up_after_s: seconds.
        scale_down_after_s: seconds; longer than the workers' usual pauses.
    """

    scale_up_load: float = 1.25
    scale_down_load: float = 0.5
    scale_up_after_s: float = 5.0
    scale_down_after_s: float = 60.0


def desired_teachers(
    queue: Sequence[tuple[float, int]],
    teachers: int,
    starting: int,
    group: Group,
    policy: ScalingPolicy,
) -> int:
    """The number of teachers that a queue calls for; `teachers` while it may stay as it is.

    Args:
        queue: (second, requests that wait or are worked on), oldest first, since the number of
            teachers last changed.
        teachers: how many there are, those that are starting included.
        starting: how many of these have not loaded their model yet; the queue does not show their
            work, so none are added meanwhile.
        group: states the bounds.
    """
    load = _mean_over_last(queue, policy.scale_up_after_s)
    needed = 0 if load is None or starting else math.ceil(load / policy.scale_up_load)
    if needed > teachers:
        return min(needed, group.max_actors)
    load = _mean_over_last(queue, policy.scale_down_after_s)
    if load is not None and (enough := math.ceil(load / policy.scale_down_load)) < teachers:
        return max(enough, group.min_actors)
    return teachers


def _mean_over_last(queue: Sequence[tuple[float, int]], seconds: float) -> float | None:
    """The mean length of the queue over its last seconds; None if less than that was observed."""
    if not queue or queue[-1][0] - queue[0][0] < seconds:
        return None
    return fmean(length for second, length in queue if second >= queue[-1][0] - seconds)


OBSERVE_EVERY_S = 0.5
DRAIN_S = 10.0  # how long workers may take to hear that a teacher is being removed

# A version, and the ready teachers beyond the minimum, by their numbers.
Membership = tuple[str, dict[int, ActorHandle]]


class Autoscaler:
    """Tracks every request that workers make of the groups' teachers, until it is answered."""

    def __init__(self, recipe: Recipe, policy: ScalingPolicy):
        self._groups = [_ScaledGroup(recipe, group, policy) for group in groups(recipe)]
        self._task: asyncio.Task[None] | None = None

    async def track(
        self, group: int, client: str, teacher: int | None, request: list[ObjectRef], version: str
    ) -> Membership | None:
        """Notes a request.

        Args:
            group: the position among the recipe's groups.
            client: the worker that makes the request.
            teacher: the number of the teacher that takes it; None: one of the minimum.
            request: the answer that is to come, in a list: as a plain argument Ray would wait
                for it.
            version: of the membership that the worker knows.

        Returns:
            The membership, if its version is another.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self._task.done():
            self._task.result()  # raises what ended it: nobody would scale any more
        scaled = self._groups[group]
        scaled.requests.append(_Request(client, teacher, *request))
        return scaled.membership() if scaled.version != version else None

    async def counts(self) -> list[dict[str, int]]:
        """For each group its teachers beyond the minimum: `started` and, of those, `ready`."""
        return [scaled.counts() for scaled in self._groups]

    async def _run(self) -> None:
        while True:
            for scaled in self._groups:
                await scaled.observe(time.monotonic())
            await asyncio.sleep(OBSERVE_EVERY_S)


def start_autoscaler(recipe: Recipe, policy: ScalingPolicy) -> ActorHandle | None:
    """Starts the recipe's autoscaler; None if the numbers of its teachers are fixed."""
    if all(group.min_actors == group.max_actors for group in groups(recipe)):
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class = ray.remote(Autoscaler).options(
        num_cpus=0, max_restarts=-1, scheduling_strategy=here
    )
    # Ray's annotation has the class, too, as what this may return.
    return cast(ActorHandle, actor_class.remote(recipe, policy))


@dataclass(frozen=True)
class _Request:
    client: str
    teacher: int | None
    answer: ObjectRef


@dataclass
class _Extra:
    """A teacher beyond the minimum.

    Args:
        heartbeat: an answer of it that is still to come, or tells that it died.
        ready: whether a node has taken it and it has loaded its model.
        removed_at: when it was chosen to be removed; None: it stays.
    """

    actor: ActorHandle
    heartbeat: ObjectRef
    ready: bool = False
    removed_at: float | None = None


class _ScaledGroup:
    """The teachers of one group beyond its minimum, and the requests of all its teachers."""

    def __init__(self, recipe: Recipe, group: Group, policy: ScalingPolicy):
        self._recipe, self._group, self._policy = recipe, group, policy
        self._extras: dict[int, _Extra] = {}
        self._last_number = 0
        self._queue: deque[tuple[float, int]] = deque()
        self.requests: list[_Request] = []
        self.version = uuid.uuid4().hex

    def membership(self) -> Membership:
        """The version, and the teachers that take requests."""
        staying = self._staying()
        return self.version, {n: extra.actor for n, extra in staying.items() if extra.ready}

    def counts(self) -> dict[str, int]:
        """How many teachers beyond the minimum stay, and how many of these are ready."""
        staying = self._staying().values()
        return {"started": len(staying), "ready": sum(extra.ready for extra in staying)}

    def _staying(self) -> dict[int, _Extra]:
        return {n: extra for n, extra in self._extras.items() if extra.removed_at is None}

    async def observe(self, now: float) -> None:
        """Looks at requests and teachers, and starts or stops teachers."""
        self._drop_answered()
        await self._check_extras()
        # A worker waits for one answer at a time; its announcement of the next waits with it.
        self._queue.append((now, len({request.client for request in self.requests})))
        while now - self._queue[0][0] > self._policy.scale_down_after_s + 2 * OBSERVE_EVERY_S:
            self._queue.popleft()
        self._scale(now)
        self._stop_drained(now)

    def _drop_answered(self) -> None:
        """Drops requests that are answered, or never will be: teacher or worker died."""
        answers = [request.answer for request in self.requests]
        if answers:
            _, pending = ray.wait(answers, num_returns=len(answers), timeout=0, fetch_local=False)
            waiting = set(pending)
            self.requests = [request for request in self.requests if request.answer in waiting]

    async def _check_extras(self) -> None:
        """Notices which teachers have become ready and which have died."""
        for number, extra in list(self._extras.items()):
            if not ray.wait([extra.heartbeat], timeout=0)[0]:
                continue
            try:
                await extra.heartbeat
            except RayActorError as error:
                logging.warning("a teacher beyond the minimum died: %s", error)
                del self._extras[number]
                self._changed()
                continue
            if not extra.ready:
                extra.ready = True
                self._changed()
            extra.heartbeat = extra.actor.fingerprint.remote()

    def _scale(self, now: float) -> None:
        group, staying = self._group, self._staying()
        teachers = group.min_actors + len(staying)
        starting = sum(not extra.ready for extra in staying.values())
        goal = desired_teachers(self._queue, teachers, starting, group, self._policy)
        if goal > teachers:
            self._scale_up(goal - teachers)
        elif goal < teachers:
            self._scale_down(teachers - goal, now)

    def _scale_up(self, count: int) -> None:
        for _ in range(count):
            self._last_number += 1
            actor = start_teacher(self._recipe, self._group, max_restarts=0)
            self._extras[self._last_number] = _Extra(actor, actor.fingerprint.remote())
        self._changed()

    def _scale_down(self, count: int, now: float) -> None:
        """Chooses teachers to be removed: those that are starting, then those that came last."""
        staying = self._staying()
        order = sorted(staying, key=lambda number: (not staying[number].ready, number))
        for number in order[-count:]:
            staying[number].removed_at = now
        self._changed()

    def _stop_drained(self, now: float) -> None:
        """Ends the teachers to be removed, once they have answered all requests that they took."""
        in_use = {request.teacher for request in self.requests}
        for number, extra in list(self._extras.items()):
            if extra.removed_at is None:
                continue
            if extra.ready and (number in in_use or now < extra.removed_at + DRAIN_S):
                continue
            ray.kill(extra.actor)
            del self._extras[number]

    def _changed(self) -> None:
        self._queue.clear()
        self.version = uuid.uuid4().hex
