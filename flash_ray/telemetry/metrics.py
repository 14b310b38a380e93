"""What teachers, studies and the cache of conditions tell Prometheus.

A run's metrics are in `trainer/prometheus.py`, an endpoint's in `serving/metrics.py`.

Ray exports each name with `ray_` before it, counters with `_total` behind it, and adds labels of
the process. A process takes its gauges with it when it ends; its counters stay as they were while
its node is there. Queries aggregate over processes by `run`, so that a run that was restarted, or
goes on elsewhere, stays one line. Ray keeps a histogram's sum only to the nearest bucket, so
seconds that are added up are counters.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from flash_ray.recipe.schema import Task

SHOW_EVERY_S = 3.0  # well below the time between exports
SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300]
_kept: weakref.WeakSet["PersistentGauge"] = weakref.WeakSet()
_lock = threading.Lock()
_threads: list[threading.Thread] = []


class PersistentGauge:
    """Shows the last value of each set of labels for as long as the process and the object live,
    also while the process waits for something that does not come."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self._gauge = Gauge(name, text, labels)
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        _keep(self)

    def set(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Sets the value of a set of labels."""
        self._values[tuple((labels or {}).items())] = value
        self.show()

    def show(self) -> None:
        """Exports all values once more."""
        for labels, value in list(self._values.items()):
            self._gauge.set(value, dict(labels))


class TeacherMetrics:
    """The metrics of an actor that holds a group of teachers, labeled with its members' names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._labels = {"teachers": "+".join(names)}
        labels = ("teachers", "call")
        self._busy = Counter("flash_teacher_busy_seconds", "Seconds at work.", labels)
        self._calls = Histogram("flash_teacher_call_seconds", "Seconds of a call.", SECONDS, labels)

    @contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Times the block as a call of that name."""
        start = time.monotonic()
        yield
        seconds, labels = time.monotonic() - start, {**self._labels, "call": call}
        self._busy.inc(seconds, labels)
        self._calls.observe(seconds, labels)


class PoolMetrics:
    """The metrics of a worker that sends requests to a group of teachers."""

    def __init__(self) -> None:
        self._queue = PersistentGauge(
            "flash_teacher_open_questions", "Requests announced or sent, not answered."
        )
        self._answers = Histogram(
            "flash_teacher_answer_seconds",
            "From a request to its answer, queue included.",
            SECONDS,
        )
        self._restarts = PersistentGauge(
            "flash_teacher_restarts", "Deaths of teachers that this worker lived through."
        )
        self._sent: dict[int, float] = {}
        self.restarted(0)

    def opened(self, requests: int) -> None:
        """Sets how many requests are open now."""
        self._queue.set(requests)

    def asked(self, request_id: int) -> None:
        """Starts a request's clock, the first time that it is sent."""
        self._sent.setdefault(request_id, time.monotonic())

    def answered(self, request_id: int, requests: int) -> None:
        """Stops a request's clock; so many are open now."""
        self._answers.observe(time.monotonic() - self._sent.pop(request_id))
        self.opened(requests)

    def restarted(self, times: int) -> None:
        """Sets how many deaths of teachers there were until now."""
        self._restarts.set(times)


class StudyMetrics:
    """The metrics of a study or a search, told by its driver."""

    def __init__(self, study: str) -> None:
        self._study = {"study": study}
        labels = ("study", "state")
        self._trials = PersistentGauge("flash_study_trials", "Trials by state.", labels)
        self._best = PersistentGauge(
            "flash_study_best_score", "Best score of a trial so far.", ("study", "bench")
        )
        self._so_far: dict[str, float] = {}

    def trials(self, counts: Mapping[str, int]) -> None:
        """Sets the number of trials by state."""
        for state, count in counts.items():
            self._trials.set(count, {**self._study, "state": state})

    def scored(self, scores: Mapping[Task, float]) -> None:
        """Takes a finished trial's scores, by task."""
        for task, score in scores.items():
            self._so_far[task] = max(score, self._so_far.get(task, 0.0))
            self._best.set(self._so_far[task], {**self._study, "bench": task})


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Times a method of an object that has `metrics`, under the method's name."""

    @wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        with self.metrics.timed(method.__name__.lstrip("_")):
            return method(self, *args, **options)

    return call


def count_conditions(cache: str, hits: int, misses: int) -> None:
    """Counts look-ups of encoded shards.

    Args:
        cache: `store` (a miss is encoded) or `node` (a miss is downloaded).
    """
    for outcome, count in (("hit", hits), ("miss", misses)):
        if count:
            _conditions().inc(count, {"place": cache, "outcome": outcome})


@cache
def _conditions() -> Counter:
    return Counter(
        "flash_condition_lookups", "Look-ups of encoded shards, by outcome.", ("place", "outcome")
    )


def _keep(gauge: PersistentGauge) -> None:
    with _lock:
        _kept.add(gauge)
        if not _threads:
            _threads.append(threading.Thread(target=_show_all, name="gauges", daemon=True))
            _threads[0].start()


def _show_all() -> None:
    while True:
        time.sleep(SHOW_EVERY_S)
        with _lock:
            gauges = list(_kept)
        for gauge in gauges:
            gauge.show()
        del gauges
