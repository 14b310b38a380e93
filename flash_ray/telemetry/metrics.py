"""What runs, teachers, studies and the cache measure; the endpoints' are in serving/metrics.py.

Ray exports each name with `ray_` before it, counters with `_total` behind it, and adds labels of
the process. A process takes its gauges with it when it ends; its counters stay as they were while
its node is there. Queries aggregate over processes by `run`, so that a run that was restarted, or
goes on elsewhere, stays one line. Ray keeps a histogram's sum only to the nearest bucket, so
seconds that are added up are counters.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

from ray.util.metrics import Counter, Histogram

from flash_ray.recipe import Recipe
from flash_ray.telemetry.gauge import PersistentGauge

SECONDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300]

# Of a line's measures: the metric, what it says, and what the value is multiplied with.
MEASURES = {
    "images_per_second": ("flash_train_images_per_second", "Training images a second.", 1),
    "teacher_wait_share": (
        "flash_train_teacher_wait_ratio",
        "Share of the last update in which workers waited for teachers, 0 to 1.",
        1,
    ),
    "dmd_gradient": ("flash_train_dmd_gradient_rms", "RMS of the DMD gradient.", 1),
    "spread": ("flash_train_spread_ratio", "Samples' scale over the base's at the same rung.", 1),
    "excess": ("flash_train_excess_ratio", "Samples' scale over the base's finished samples.", 1),
    "memory_mib": (
        "flash_train_memory_bytes",
        "Peak of the GPU's memory, else what the process holds; mean over workers.",
        2**20,
    ),
}


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Times a method of an object that has `metrics`, under the method's name."""

    @wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        with self.metrics.timed(method.__name__.lstrip("_")):
            return method(self, *args, **options)

    return call


class RunMetrics:
    """Of one worker of a run.

    Args:
        run: its name, a label of everything.
        leading: whether this is worker 0: what the workers share is told by it alone.
    """

    def __init__(self, run: str, recipe: Recipe, leading: bool) -> None:
        self._run, self._leading = {"run": run}, leading
        self._every = recipe.runtime.checkpoint_every
        self._stages = Counter(
            "flash_train_stage_seconds", "Seconds of each stage of training.", ("run", "stage")
        )
        self._updates = Counter("flash_train_updates", "Updates made.", ("run",))
        self._calls = Counter(
            "flash_train_teacher_calls", "Of the teachers' transformers, for a picture.", ("run",)
        )
        self._measures = {
            name: (_gauge(metric, text), factor)
            for name, (metric, text, factor) in MEASURES.items()
        }
        self._update = _gauge("flash_train_update", "Number of the last update.")
        self._planned = _gauge("flash_train_planned_updates", "Updates of the whole run.")
        self._started = _gauge(
            "flash_train_start_timestamp_seconds",
            "When the workers were set up; anew on a restart.",
        )
        self._loss = _gauge("flash_train_loss", "Losses of the last update.", "task", "loss")
        self._norm = _gauge("flash_train_gradient_norm", "Before clipping.", "network")
        self._strain = _gauge(
            "flash_train_strain_ratio",
            "How near a measure is to what ends the run as diverged; 1 is there.",
            "measure",
        )
        self._weight = _gauge(
            "flash_teacher_weight_ratio",
            "Lambda that was used, mean over samples.",
            "teacher",
            "rung",
        )
        self._bench = _gauge("flash_train_bench_score", "Of the averaged student, 1-5.", "bench")
        self._saved = _gauge(
            "flash_checkpoint_timestamp_seconds",
            "When the last checkpoint was stored, or the start.",
        )
        self._interval = _gauge(
            "flash_checkpoint_interval_seconds", "Between checkpoints, at the last update's pace."
        )
        self._bytes = _gauge("flash_checkpoint_bytes", "This worker's part of the last checkpoint.")
        if leading:
            for gauge in (self._started, self._saved):
                gauge.set(time.time(), self._run)
            self._planned.set(recipe.training.iterations, self._run)

    def updated(self, line: Mapping[str, Any], strain: Mapping[str, float]) -> None:
        """Takes an update's line, as `DistillationStep.update` makes it, and `DivergenceMonitor.strain`."""
        measures = line["measures"]
        self._updates.inc(1, self._run)
        self._update.set(line["update"], self._run)
        for name, (gauge, factor) in self._measures.items():
            gauge.set(measures[name] * factor, self._run)
        if calls := measures["teacher_calls"]:
            self._calls.inc(calls, self._run)
        for stage, seconds in line["stages"].items():
            self._spent(stage, seconds)
        for network in ("student", "fake"):
            self._norm.set(measures[f"{network}_norm"], {**self._run, "network": network})
        for task, losses in line["tasks"].items():
            for loss, value in losses.items():
                labels = {"task": task, "loss": loss.removesuffix("_loss")}
                self._loss.set(value, {**self._run, **labels})
        for teacher, rungs in line["teachers"].items():
            for rung, row in rungs.items():
                labels = {"teacher": teacher, "rung": rung}
                self._weight.set(row["weight"], {**self._run, **labels})
        for bench, score in line.get("bench", {}).items():
            self._bench.set(score, {**self._run, "bench": bench})
        for measure, value in strain.items():
            self._strain.set(value, {**self._run, "measure": measure})
        if self._every:
            self._interval.set(self._every * measures["seconds"], self._run)

    def checkpointed(self, folder: Path) -> None:
        """This worker's part, in that folder, is stored."""
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._bytes.set(size, self._run)
        if self._leading:
            self._saved.set(time.time(), self._run)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """A stage outside of updates."""
        start = time.monotonic()
        yield
        if self._leading:
            self._spent(stage, time.monotonic() - start)

    def _spent(self, stage: str, seconds: float) -> None:
        if seconds > 0:
            self._stages.inc(seconds, {**self._run, "stage": stage})


class TeacherMetrics:
    """Of an actor that holds a group of teachers, named by its members."""

    def __init__(self, names: Sequence[str]) -> None:
        self._labels = {"teachers": "+".join(names)}
        labels = ("teachers", "call")
        self._busy = Counter("flash_teacher_busy_seconds", "Seconds at work.", labels)
        self._calls = Histogram("flash_teacher_call_seconds", "Seconds of a call.", SECONDS, labels)

    @contextmanager
    def timed(self, call: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds, labels = time.monotonic() - start, {**self._labels, "call": call}
        self._busy.inc(seconds, labels)
        self._calls.observe(seconds, labels)


class PoolMetrics:
    """Of a worker that asks a group of teachers."""

    def __init__(self) -> None:
        self._queue = PersistentGauge(
            "flash_teacher_open_questions", "Announced or asked, not answered."
        )
        self._answers = Histogram(
            "flash_teacher_answer_seconds",
            "From a question to its answer, queue included.",
            SECONDS,
        )
        self._restarts = PersistentGauge(
            "flash_teacher_restarts", "Deaths of teachers that it lived through."
        )
        self._asked: dict[int, float] = {}
        self.restarted(0)

    def opened(self, questions: int) -> None:
        """So many are open now."""
        self._queue.set(questions)

    def asked(self, request_id: int) -> None:
        self._asked.setdefault(request_id, time.monotonic())

    def answered(self, request_id: int, questions: int) -> None:
        self._answers.observe(time.monotonic() - self._asked.pop(request_id))
        self.opened(questions)

    def restarted(self, times: int) -> None:
        """So often until now."""
        self._restarts.set(times)


class StudyMetrics:
    """Of a study or a search, told by its driver."""

    def __init__(self, study: str) -> None:
        self._study = {"study": study}
        labels = ("study", "state")
        self._trials = PersistentGauge("flash_study_trials", "Trials by state.", labels)
        self._best = PersistentGauge(
            "flash_study_best_score", "Best score of a trial so far, 1-5.", ("study", "bench")
        )
        self._so_far: dict[str, float] = {}

    def trials(self, counts: Mapping[str, int]) -> None:
        for state, count in counts.items():
            self._trials.set(count, {**self._study, "state": state})

    def scored(self, scores: Mapping[str, float]) -> None:
        """A finished trial's, by bench."""
        for bench, score in scores.items():
            self._so_far[bench] = max(score, self._so_far.get(bench, 0.0))
            self._best.set(self._so_far[bench], {**self._study, "bench": bench})


def count_conditions(place: str, hits: int, misses: int) -> None:
    """Counts look-ups of encoded shards.

    Args:
        place: `store` (a miss is encoded) or `node` (a miss is downloaded).
    """
    for outcome, count in (("hit", hits), ("miss", misses)):
        if count:
            _conditions().inc(count, {"place": place, "outcome": outcome})


@cache
def _conditions() -> Counter:
    return Counter(
        "flash_condition_lookups", "Look-ups of encoded shards, by outcome.", ("place", "outcome")
    )


def _gauge(name: str, text: str, *labels: str) -> PersistentGauge:
    return PersistentGauge(name, text, ("run", *labels))
