"""Plays a few updates through: trainers that keep step, teachers that answer in turn.

The trainers do what `distill.distiller.DistillationStep` does, in its order; a teacher is an actor that
takes its calls one after another, first come, first served. The next micro-batch is announced as
soon as one is asked about, as with `teacher_defaults.max_in_flight` of 2 or more.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

TINY_S = 1e-12


@dataclass(frozen=True)
class Parts:
    """Seconds of one trainer's and one teacher's parts.

    Args:
        before: of a micro-batch, up to the question: rollout and the student's forward pass.
        fake_score: between the question and the wait for its answer.
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
    """Of one update in the steady state.

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


Condition = Callable[[], object]
Steps = Iterator[float | Condition]  # seconds of work, or what is waited for


def simulate(
    parts: Parts, trainers: int, replicas: int, passes: int, cores: int | None = None
) -> Timing:
    """The last of four updates of `passes` micro-batches each.

    Args:
        cores: that all processes share, evenly, when more than so many compute at once; None:
            each has a device of its own.
    """
    return _Play(parts, trainers, replicas, passes, cores).run(updates=4)


class _Play:
    def __init__(self, parts: Parts, trainers: int, replicas: int, passes: int, cores: int | None):
        self.parts, self.trainers, self.passes, self.cores = parts, trainers, passes, cores
        self.queues: list[deque[_Call]] = [deque() for _ in range(replicas)]
        self.now = 0.0
        self.busy = [0.0] * replicas
        self.arrived: dict[int, int] = {}
        self.marks: list[tuple[float, float]] = []  # trainer 0's: now, busy seconds in all
        self.waited = [0.0] * trainers

    def run(self, updates: int) -> Timing:
        trainers = [self._trainer(rank, updates) for rank in range(self.trainers)]
        actors = [self._actor(number) for number in range(len(self.queues))]
        _share(self, [*trainers, *actors], len(trainers))
        (start, busy_before), (end, busy_after) = self.marks[-2:]
        seconds = end - start
        busy = (busy_after - busy_before) / len(self.queues)
        return Timing(
            seconds, sum(self.waited) / self.trainers / seconds, max(0.0, 1 - busy / seconds)
        )

    def _trainer(self, rank: int, updates: int) -> Steps:
        parts, replicas = self.parts, len(self.queues)
        meetings = count()
        self._call((rank % replicas), parts.prefill)
        for update in range(updates):
            if rank == 0:
                self.marks.append((self.now, sum(self.busy)))
            self.waited[rank] = 0.0
            for n in range(update * self.passes, (update + 1) * self.passes):
                replica = (rank + n) % replicas  # round robin
                yield parts.before
                answer = self._call(replica, parts.score)
                self._call((replica + 1) % replicas, parts.prefill)  # of the next micro-batch
                yield parts.fake_score
                asked = self.now
                yield lambda answer=answer: answer.done
                self.waited[rank] += self.now - asked
                yield parts.backward
                yield self._together(next(meetings))
            yield parts.tail
            yield self._together(next(meetings))
        if rank == 0:
            self.marks.append((self.now, sum(self.busy)))

    def _actor(self, number: int) -> Steps:
        queue = self.queues[number]
        while True:
            yield lambda: queue
            call = queue.popleft()
            yield call.seconds
            self.busy[number] += call.seconds
            call.done = True

    def _call(self, replica: int, seconds: float) -> _Call:
        call = _Call(seconds)
        self.queues[replica].append(call)
        return call

    def _together(self, meeting: int) -> Condition:
        """Gradients are reduced: nobody goes on before all are there."""
        self.arrived[meeting] = self.arrived.get(meeting, 0) + 1
        return lambda: self.arrived[meeting] == self.trainers


def _share(play: _Play, processes: list[Steps], trainers: int) -> None:
    """Runs all processes until the first `trainers` of them have ended."""
    state: list[float | Condition | None] = [0.0] * len(processes)
    while True:
        moved = True
        while moved:
            moved = False
            for number, what in enumerate(state):
                ready = what is not None and (what() if callable(what) else what <= TINY_S)
                if ready:
                    state[number] = next(processes[number], None)
                    moved = True
        if all(what is None for what in state[:trainers]):
            return
        working = [n for n, what in enumerate(state) if isinstance(what, float)]
        rate = min(1.0, play.cores / len(working)) if play.cores else 1.0
        step = min(state[n] for n in working)
        play.now += step / rate
        for number in working:
            state[number] -= step
