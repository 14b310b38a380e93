"""Plays a few updates through: trainers that keep step, teachers that answer in turn.

The trainers do what `trainer.step.DistillationStep` does, in its order; a teacher is an actor that
takes its calls one after another, first come, first served. The next micro-batch is announced as
soon as the scores of one are requested, as with `teacher_defaults.max_in_flight` of 2 or more.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

TINY_S = 1e-12


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of the stages of one trainer's update and of one teacher's answer.

    Args:
        before: of a micro-batch, until its scores are requested: rollout and forward pass.
        fake_score: between the request and the wait for its answer.
        backward: after the answer.
        tail: once an update: the optimizer's step and all fake-score updates.
        prefill, score: a teacher's, for one micro-batch, transport included.
    """

    before: float
    fake_score: float
    backward: float
    tail: float
    prefill: float
    score: float


@dataclass(frozen=True)
class Timing:
    """One update in the steady state.

    Args:
        wait_share: part of the update that a trainer waits for teachers, over the trainers.
        teacher_idle_share: part of the update that a teacher has nothing to do.
    """

    seconds: float
    wait_share: float
    teacher_idle_share: float


@dataclass
class _Call:
    seconds: float
    done: bool = False

    def is_done(self) -> bool:
        return self.done


Ready = Callable[[], bool]
Steps = Iterator[float | Ready]  # seconds of work, or what is waited for


@dataclass
class _Process:
    """A trainer or a teacher, and what it does now: work for some seconds, or wait."""

    steps: Steps
    seconds: float = 0.0
    ready: Ready | None = None
    ended: bool = False

    def can_advance(self) -> bool:
        """Whether its work is done, or what it waits for has come."""
        if self.ended:
            return False
        return self.ready() if self.ready else self.seconds <= TINY_S

    def advance(self) -> None:
        """Begins the next step."""
        step = next(self.steps, None)
        self.ended = step is None
        self.ready = step if callable(step) else None
        self.seconds = step if isinstance(step, float) else 0.0


def simulate(
    stages: StageSeconds, trainers: int, replicas: int, passes: int, cores: int | None = None
) -> Timing:
    """Times the last of four updates of `passes` micro-batches each.

    Args:
        cores: that all processes share, evenly, when more than so many compute at once; None:
            each has a device of its own.
    """
    return _Play(stages, trainers, replicas, passes, cores).run(updates=4)


class _Play:
    def __init__(
        self, stages: StageSeconds, trainers: int, replicas: int, passes: int, cores: int | None
    ):
        self.stages, self.trainers, self.passes, self.cores = stages, trainers, passes, cores
        self.queues: list[deque[_Call]] = [deque() for _ in range(replicas)]
        self.now = 0.0
        self.busy = [0.0] * replicas
        self.arrived: dict[int, int] = {}
        self.marks: list[tuple[float, float]] = []  # trainer 0's: now, busy seconds in all
        self.waited = [0.0] * trainers

    def run(self, updates: int) -> Timing:
        trainers = [self._trainer(rank, updates) for rank in range(self.trainers)]
        actors = [self._actor(number) for number in range(len(self.queues))]
        _share(self, [_Process(steps) for steps in (*trainers, *actors)], len(trainers))
        (start, busy_before), (end, busy_after) = self.marks[-2:]
        seconds = end - start
        busy = (busy_after - busy_before) / len(self.queues)
        return Timing(
            seconds, sum(self.waited) / self.trainers / seconds, max(0.0, 1 - busy / seconds)
        )

    def _trainer(self, rank: int, updates: int) -> Steps:
        stages, replicas = self.stages, len(self.queues)
        barriers = count()
        self._call((rank % replicas), stages.prefill)
        for update in range(updates):
            if rank == 0:
                self.marks.append((self.now, sum(self.busy)))
            self.waited[rank] = 0.0
            for n in range(update * self.passes, (update + 1) * self.passes):
                replica = (rank + n) % replicas  # round robin
                yield stages.before
                answer = self._call(replica, stages.score)
                self._call((replica + 1) % replicas, stages.prefill)  # of the next micro-batch
                yield stages.fake_score
                requested = self.now
                yield answer.is_done
                self.waited[rank] += self.now - requested
                yield stages.backward
                yield self._barrier(next(barriers))
            yield stages.tail
            yield self._barrier(next(barriers))
        if rank == 0:
            self.marks.append((self.now, sum(self.busy)))

    def _actor(self, number: int) -> Steps:
        queue = self.queues[number]
        while True:
            yield lambda: bool(queue)
            call = queue.popleft()
            yield call.seconds
            self.busy[number] += call.seconds
            call.done = True

    def _call(self, replica: int, seconds: float) -> _Call:
        call = _Call(seconds)
        self.queues[replica].append(call)
        return call

    def _barrier(self, number: int) -> Ready:
        """What a trainer waits for where gradients are reduced: that all have come that far."""
        self.arrived[number] = self.arrived.get(number, 0) + 1
        return lambda: self.arrived[number] == self.trainers


def _share(play: _Play, processes: list[_Process], trainers: int) -> None:
    """Runs all processes until the first `trainers` of them have ended."""
    while True:
        moved = True
        while moved:
            moved = False
            for process in processes:
                if process.can_advance():
                    process.advance()
                    moved = True
        if all(process.ended for process in processes[:trainers]):
            return
        working = [process for process in processes if not process.ended and not process.ready]
        rate = min(1.0, play.cores / len(working)) if play.cores else 1.0
        step = min(process.seconds for process in working)
        play.now += step / rate
        for process in working:
            process.seconds -= step
