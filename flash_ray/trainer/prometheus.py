"""What a run tells Prometheus, a worker at a time; names and labels as `telemetry.metrics` says."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray.util.metrics import Counter

from flash_ray.recipe import Recipe
from flash_ray.telemetry.metrics import PersistentGauge
from flash_ray.trainer.metrics import UpdateMetrics


class RunMetrics:
    """The counters and gauges of one worker of a run.

    Args:
        run: its name, a label of everything.
        leading: whether this is worker 0, which alone tells what the workers share.
    """

    def __init__(self, run: str, recipe: Recipe, leading: bool) -> None:
        self._run, self._leading = {"run": run}, leading
        self._every = recipe.runtime.checkpoint_every
        self._stages = Counter(
            "flash_train_stage_seconds", "Seconds of each stage of training.", ("run", "stage")
        )
        self._updates = Counter("flash_train_updates", "Iterations made.", ("run",))
        self._calls = Counter(
            "flash_train_teacher_calls",
            "Evaluations of the teachers' transformers for a picture.",
            ("run",),
        )
        self._speed = _gauge("flash_train_images_per_second", "Training images a second.")
        self._wait = _gauge(
            "flash_train_teacher_wait_ratio",
            "Share of the last iteration in which workers waited for teachers, 0 to 1.",
        )
        self._gradient = _gauge("flash_train_dmd_gradient_rms", "RMS of the DMD gradient.")
        self._spread = _gauge(
            "flash_train_spread_ratio", "Samples' scale over the base's at the same rung."
        )
        self._excess = _gauge(
            "flash_train_excess_ratio", "Samples' scale over the base's finished samples."
        )
        self._memory = _gauge(
            "flash_train_memory_bytes",
            "Peak of the GPU's memory, else what the process holds; mean over workers.",
        )
        self._update = _gauge("flash_train_update", "Number of the last iteration.")
        self._planned = _gauge("flash_train_planned_updates", "Iterations of the whole run.")
        self._started = _gauge(
            "flash_train_start_timestamp_seconds",
            "When the workers were set up; anew on a restart.",
        )
        self._loss = _gauge("flash_train_loss", "Losses of the last iteration.", "task", "loss")
        self._norm = _gauge(
            "flash_train_gradient_norm", "Gradient norm before clipping.", "network"
        )
        self._strain = _gauge(
            "flash_train_strain_ratio",
            "How near a metric is to what ends the run as diverged; 1 is there.",
            "measure",
        )
        self._weight = _gauge(
            "flash_teacher_weight_ratio",
            "Lambda that was used, mean over samples.",
            "teacher",
            "rung",
        )
        self._scores = _gauge(
            "flash_train_bench_score",
            "Score of the averaged student.",
            "bench",
        )
        self._saved = _gauge(
            "flash_checkpoint_timestamp_seconds",
            "When the last checkpoint was written, or the start.",
        )
        self._interval = _gauge(
            "flash_checkpoint_interval_seconds",
            "Seconds between checkpoints, at the last iteration's pace.",
        )
        self._bytes = _gauge("flash_checkpoint_bytes", "This worker's part of the last checkpoint.")
        if leading:
            for gauge in (self._started, self._saved):
                gauge.set(time.time(), self._run)
            self._planned.set(recipe.training.iterations, self._run)

    def updated(self, metrics: UpdateMetrics, alarm_level: Mapping[str, float]) -> None:
        """Takes an iteration's record, and `DivergenceMonitor.alarm_level`."""
        self._updates.inc(1, self._run)
        self._update.set(metrics.iteration, self._run)
        self._speed.set(metrics.images_per_second, self._run)
        self._wait.set(metrics.teacher_wait_share, self._run)
        if "dmd_gradient" in metrics.diagnostics:
            self._gradient.set(metrics.diagnostics["dmd_gradient"], self._run)
        self._spread.set(metrics.spread, self._run)
        self._excess.set(metrics.excess, self._run)
        self._memory.set(metrics.memory_mib * 2**20, self._run)
        if metrics.teacher_calls:
            self._calls.inc(metrics.teacher_calls, self._run)
        for stage, seconds in metrics.stages.items():
            self._spent(stage, seconds)
        self._norm.set(metrics.student_grad_norm, {**self._run, "network": "student"})
        self._norm.set(metrics.fake_score_grad_norm, {**self._run, "network": "fake_score"})
        for task, losses in metrics.tasks.items():
            self._loss.set(losses.student_loss, {**self._run, "task": task, "loss": "student"})
            self._loss.set(
                losses.fake_score_loss, {**self._run, "task": task, "loss": "fake_score"}
            )
        for teacher, rungs in metrics.teachers.items():
            for rung, stats in rungs.items():
                labels = {**self._run, "teacher": teacher, "rung": str(rung)}
                self._weight.set(stats.weight, labels)
        for task, score in (metrics.scores or {}).items():
            self._scores.set(score, {**self._run, "bench": task})
        for name, level in alarm_level.items():
            self._strain.set(level, {**self._run, "measure": name})
        if self._every:
            self._interval.set(self._every * metrics.seconds, self._run)

    def checkpointed(self, size: int) -> None:
        """Tells that this worker's part, of so many bytes, is written; once the one before it is
        stored."""
        self._bytes.set(size, self._run)
        if self._leading:
            self._saved.set(time.time(), self._run)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Times a stage outside of iterations."""
        start = time.monotonic()
        yield
        if self._leading:
            self._spent(stage, time.monotonic() - start)

    def _spent(self, stage: str, seconds: float) -> None:
        if seconds > 0:
            self._stages.inc(seconds, {**self._run, "stage": stage})


def _gauge(name: str, text: str, *labels: str) -> PersistentGauge:
    return PersistentGauge(name, text, ("run", *labels))
