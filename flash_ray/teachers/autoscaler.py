"""Starts teachers beyond the minimum while requests wait, and stops those that are idle.

One actor for all workers of a run, or of a study, on the driver's node. What it starts dies with it.
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

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flash_ray.recipe import Recipe
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.protocol import Group, groups


@dataclass(frozen=True)
class Pace:
    """When teachers are hired and dismissed.

    The two loads lie far enough apart that no number of teachers is both too small and too large:
    where dismissals leave half a question per teacher, even a queue of random arrivals
    (M/M/1) holds one question per teacher on average, which is not crowded.

    Args:
        crowded: questions per teacher, on average over `hire_after_s`, above which more are hired.
        idle: questions per teacher that would be left after a dismissal, on average over
            `dismiss_after_s`, up to which there is one.
        hire_after_s: seconds.
        dismiss_after_s: seconds; longer than the workers' usual pauses.
    """

    crowded: float = 1.25
    idle: float = 0.5
    hire_after_s: float = 5.0
    dismiss_after_s: float = 60.0


def wanted(
    queue: Sequence[tuple[float, int]],
    teachers: int,
    coming: int,
    fewest: int,
    most: int,
    pace: Pace,
) -> int:
    """The number of teachers that a queue calls for; `teachers` while it may stay as it is.

    Args:
        queue: (second, questions that wait or are worked on), oldest first, since a teacher last
            came or went.
        teachers: hired.
        coming: how many of these have no place yet; the queue does not show their work, so nobody
            else is hired meanwhile.
    """
    crowd = _mean_over_last(queue, pace.hire_after_s)
    needed = 0 if crowd is None or coming else math.ceil(crowd / pace.crowded)
    if needed > teachers:
        return min(needed, most)
    calm = _mean_over_last(queue, pace.dismiss_after_s)
    if calm is not None and (enough := math.ceil(calm / pace.idle)) < teachers:
        return max(enough, fewest)
    return teachers


def _mean_over_last(queue: Sequence[tuple[float, int]], seconds: float) -> float | None:
    """None if less than that was observed."""
    if not queue or queue[-1][0] - queue[0][0] < seconds:
        return None
    return fmean(length for second, length in queue if second >= queue[-1][0] - seconds)


LOOK_EVERY_S = 0.5
SETTLE_S = 10.0  # how long workers may take to hear that a teacher is dismissed

# What it was when a worker last heard, and the teachers beyond the minimum, by number.
News = tuple[str, dict[int, ActorHandle]]


class Autoscaler:
    """Knows of every request that the workers make of a group's teachers, until it is answered."""

    def __init__(self, recipe: Recipe, pace: Pace):
        self._teams = [_Team(recipe, group, pace) for group in groups(recipe)]
        self._watch: asyncio.Task | None = None

    async def follow(
        self, group: int, client: str, teacher: int | None, request: list[ObjectRef], version: str
    ) -> News | None:
        """Takes note of a request.

        Args:
            group: its position among the recipe's groups.
            client: the worker that asks.
            teacher: the number of the teacher that it asks; None: one of the minimum.
            request: the answer that is to come, in a list: as a plain argument Ray would wait
                for it.
            version: of the news that the worker has.

        Returns:
            The news, where they are others.
        """
        if self._watch is None:
            self._watch = asyncio.create_task(self._look_on())
        if self._watch.done():
            self._watch.result()  # raises what ended it: nobody would scale any more
        team = self._teams[group]
        team.requests.append(_Request(client, teacher, *request))
        return team.news() if team.version != version else None

    async def numbers(self) -> list[dict[str, int]]:
        """For each group `hired` and, of those, `there`; the minimum is not counted."""
        return [team.numbers() for team in self._teams]

    async def _look_on(self) -> None:
        while True:
            for team in self._teams:
                await team.look(time.monotonic())
            await asyncio.sleep(LOOK_EVERY_S)


def start_autoscaler(recipe: Recipe, pace: Pace) -> ActorHandle | None:
    """The recipe's autoscaler; None if its teachers are of a fixed number."""
    if all(group.fewest == group.most for group in groups(recipe)):
        return None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Autoscaler).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    return actor.remote(recipe, pace)


@dataclass(frozen=True)
class _Request:
    client: str
    teacher: int | None
    answer: ObjectRef


@dataclass
class _Hired:
    """A teacher beyond the minimum.

    Args:
        sign: an answer of it that is still to come, or tells that it is gone.
        there: whether it has a place and has loaded its model.
        left: when it was dismissed.
    """

    actor: ActorHandle
    sign: ObjectRef
    there: bool = False
    left: float | None = None


class _Team:
    """The teachers of one group beyond its minimum, and the requests of all its teachers."""

    def __init__(self, recipe: Recipe, group: Group, pace: Pace):
        self._recipe, self._group, self._pace = recipe, group, pace
        self._hired: dict[int, _Hired] = {}
        self._last = 0  # number of the last that was hired
        self._queue: deque[tuple[float, int]] = deque()
        self.requests: list[_Request] = []
        self.version = uuid.uuid4().hex

    def news(self) -> News:
        there = [number for number in self._staff() if self._hired[number].there]
        return self.version, {number: self._hired[number].actor for number in there}

    def numbers(self) -> dict[str, int]:
        staff = self._staff()
        return {"hired": len(staff), "there": sum(self._hired[n].there for n in staff)}

    def _staff(self) -> list[int]:
        """Those hired and not dismissed."""
        return [number for number, one in self._hired.items() if one.left is None]

    async def look(self, now: float) -> None:
        self._drop_answered()
        await self._meet()
        # A worker has one question at a time; its announcement of the next waits with it.
        self._queue.append((now, len({request.client for request in self.requests})))
        while now - self._queue[0][0] > self._pace.dismiss_after_s + 2 * LOOK_EVERY_S:
            self._queue.popleft()
        self._adjust(now)
        self._let_go(now)

    def _drop_answered(self) -> None:
        """Answered, or never to be: by a teacher that died, or for a worker that died."""
        answers = [request.answer for request in self.requests]
        if answers:
            _, left = ray.wait(answers, num_returns=len(answers), timeout=0, fetch_local=False)
            waiting = set(left)
            self.requests = [one for one in self.requests if one.answer in waiting]

    async def _meet(self) -> None:
        """Notices who has come and who is gone."""
        for number, one in list(self._hired.items()):
            if not ray.wait([one.sign], timeout=0)[0]:
                continue
            try:
                await one.sign
            except RayActorError as error:
                logging.warning("a teacher beyond the minimum is gone: %s", error)
                del self._hired[number]
                self._changed()
                continue
            if not one.there:
                one.there = True
                self._changed()
            one.sign = one.actor.fingerprint.remote()

    def _adjust(self, now: float) -> None:
        group, staff = self._group, self._staff()
        # Those without a place are the first to go, then those that came last.
        staff.sort(key=lambda number: (not self._hired[number].there, number))
        before, coming = group.fewest + len(staff), sum(not self._hired[n].there for n in staff)
        goal = wanted(self._queue, before, coming, group.fewest, group.most, self._pace)
        if goal == before:
            return
        for _ in range(goal - before):
            self._last += 1
            actor = start_teacher(self._recipe, group, max_restarts=0)
            self._hired[self._last] = _Hired(actor, actor.fingerprint.remote())
        for number in staff[goal - group.fewest :]:
            self._hired[number].left = now
        self._changed()

    def _let_go(self, now: float) -> None:
        """Ends those dismissed, once they have done all that was asked of them."""
        asked = {request.teacher for request in self.requests}
        for number, one in list(self._hired.items()):
            if one.left is None or (one.there and (number in asked or now < one.left + SETTLE_S)):
                continue
            ray.kill(one.actor)
            del self._hired[number]

    def _changed(self) -> None:
        self._queue.clear()
        self.version = uuid.uuid4().hex
