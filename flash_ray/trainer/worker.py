"""The Ray Train loop: sets a worker up, iterates, keeps checkpoints, exports the student.

What the user must act on (UserError) and a diverged student end the loop on all workers at once,
and travel to the driver as the outcome: restarting the workers would not cure them.
"""

import io
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch.distributed as dist
from ray.train import CheckpointUploadMode
from torch import nn

from flash_ray.cluster.environment import one_process
from flash_ray.data.cache import ConditionsLost
from flash_ray.errors import UserError
from flash_ray.storage.manifest import FileRecord, record
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer import checkpoint, fatal
from flash_ray.trainer.divergence import Diverged, DivergenceMonitor
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.trainer.prometheus import RunMetrics
from flash_ray.trainer.scratch import new_folder, remove_folders, use_scratch
from flash_ray.trainer.setup import Evaluate, Loaded, WorkerConfig, load_together
from flash_ray.trainer.step import DistillationStep

UPLOAD_POLL_S = 0.1


@dataclass(frozen=True)
class Sheet:
    """What the averaged student drew after an iteration, a PNG; the iteration's record follows."""

    iteration: int
    png: bytes


@dataclass(frozen=True)
class Outcome:
    """What worker 0 hands back.

    Args:
        files: the exported student's, by path.
        bad_input, diverged: the message of the error that ended the run; None where none did.
        damaged: what is wrong with the checkpoint that was to be resumed from.
        lost: shards of conditions that have to be encoded anew before a worker can start.
    """

    history: list[UpdateMetrics]
    files: dict[str, FileRecord]
    final: Any = None
    bad_input: str | None = None
    diverged: str | None = None
    damaged: CorruptRecord | None = None
    lost: tuple[str, ...] = ()


def student_key(run_name: str) -> str:
    """Where a run's exported student lies in the store, before it is published."""
    return f"runs/{run_name}/student"


def train_worker(config: Mapping[str, WorkerConfig]) -> Outcome:
    """Ray Train's train_loop_per_worker.

    Args:
        config: {"config": what the driver gives}; Ray Train passes a mapping.
    """
    given = config["config"]
    if problem := fatal.kept(given.store, given.run_name):
        return Outcome([], {}, bad_input=problem)
    try:
        return _train(given)
    except Exception as error:
        if problem := fatal.problem_of(error):
            fatal.keep(given.store, given.run_name, problem)
        raise


def _train(given: WorkerConfig) -> Outcome:
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    one_process(given.recipe)
    use_scratch(given.recipe)
    if context.get_local_rank() == 0:
        remove_folders(given.store, given.run_name)
    device = ray.train.torch.get_device()
    with ExitStack() as stack:
        folder = fetched(ray.train.get_checkpoint(), stack)
        try:
            loaded = load_together(given, rank, world, device, folder)
        except checkpoint.Damaged as error:
            return Outcome([], {}, damaged=error)
        except UserError as error:
            return Outcome([], {}, bad_input=str(error))
        except ConditionsLost as error:
            return Outcome([], {}, lost=error.digests)
        run = _Run(given, rank, world, folder, loaded)
    try:
        run.train()
    except Diverged as error:  # on every worker: the metrics are shared
        return Outcome(run.state.progress.history, {}, diverged=str(error))
    files, final = run.export()
    return Outcome(run.state.progress.history, files, final)


class _Run:
    """The run on a worker that is set up."""

    def __init__(
        self, config: WorkerConfig, rank: int, world: int, folder: Path | None, loaded: Loaded
    ) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.recipe, self.weights = config.recipe, loaded.weights
        student, fake_score = loaded.networks.learners(loaded.stream.passes)
        self.step = DistillationStep(
            self.recipe, loaded.model, student, fake_score, loaded.teachers, loaded.stream
        )
        self.state = checkpoint.ResumeState(
            student, fake_score, self.step.ema, checkpoint.Progress()
        )
        self.monitor = DivergenceMonitor()
        self.metrics = RunMetrics(config.run_name, self.recipe, leading=rank == 0)
        self._uploading: Path | None = None
        if folder:
            self.state.load(folder)
            for metrics in self.state.progress.history:
                self.monitor.observe(metrics)

    def train(self) -> None:
        """Runs the iterations that are left; raises Diverged on all workers."""
        progress, last = self.state.progress, self.recipe.training.iterations
        while progress.iterations < last:
            metrics = self.step(progress.iterations + 1)
            self.monitor.observe(metrics)
            progress.iterations += 1
            for evaluate in self._evaluations():
                metrics = self._evaluate(evaluate, metrics)
            progress.history.append(metrics)
            if self.rank == 0:
                self.config.live.put_nowait(metrics)
                self.metrics.updated(metrics, self.monitor.alarm_level)
            if self._due(self.recipe.runtime.checkpoint_every) or progress.iterations == last:
                self._checkpoint()

    def export(self) -> tuple[dict[str, FileRecord], Any]:
        """Puts the averaged student into the store, from worker 0; a collective.

        Returns:
            its files' records, and what `final` says of it.
        """
        with self.step.ema.averaged() as transformer:
            if transformer is None:
                return {}, None
            files = self._put_student(transformer) if self.rank == 0 else {}
            final = self.config.final
            return files, final(self.step.model, transformer) if final else None

    def _put_student(self, transformer: nn.Module) -> dict[str, FileRecord]:
        with tempfile.TemporaryDirectory() as name:
            self.step.model.save_student(transformer, Path(name))
            files = record(Path(name))
            for path in files:
                self.config.store.put_file(
                    Path(name) / path, f"{student_key(self.config.run_name)}/{path}"
                )
        return files

    def _due(self, every: int | None) -> bool:
        return bool(every and self.state.progress.iterations % every == 0)

    def _evaluations(self) -> Iterator[Evaluate]:
        """Those that are due after this iteration."""
        if self._due(self.recipe.evaluation.every) and self.config.evaluate:
            yield self.config.evaluate
        if (once := self.config.once) and once.iteration == self.state.progress.iterations:
            yield once.evaluate

    def _evaluate(self, evaluate: Evaluate, metrics: UpdateMetrics) -> UpdateMetrics:
        """Has worker 0 evaluate the averaged student and send what it drew; a collective.

        Returns:
            the iteration's record, on worker 0 with the scores.
        """
        start, scores, categories = time.monotonic(), metrics.scores, metrics.categories
        with self.step.ema.averaged() as transformer:
            drawn = None
            if transformer is not None:
                drawn = evaluate.draw(self.step.model, transformer)
            if self.rank == 0:
                evaluated = evaluate.score(drawn)
                scores = {**(scores or {}), **evaluated.scores} or None
                categories = {**(categories or {}), **evaluated.categories} or None
                if evaluated.sheet:
                    evaluated.sheet.save(png := io.BytesIO(), "PNG")
                    self.config.live.put_nowait(Sheet(metrics.iteration, png.getvalue()))
        dist.barrier()
        seconds = metrics.stages.get("evaluate", 0.0) + time.monotonic() - start
        stages = {**metrics.stages, "evaluate": seconds}
        return replace(metrics, scores=scores, categories=categories, stages=stages)

    def _checkpoint(self) -> None:
        """Writes a checkpoint and hands it to Ray Train, which uploads it beside the training.

        It counts once all workers' parts are stored: what ends the run before that costs it alone.
        """
        name = f"iteration-{self.state.progress.iterations:06d}"
        with self.metrics.timed("checkpoint"):
            while self._uploading and self._uploading.exists():  # the scratch has room for one
                time.sleep(UPLOAD_POLL_S)
            with new_folder(self.config.store, self.config.run_name) as folder:
                size = self.state.save(folder, self.recipe, self.weights, self.rank, self.world)
                if self.rank == 0:  # of an upload that was cut off; the others wait in the report
                    home = f"runs/{self.config.run_name}/train"
                    self.config.store.delete_all(f"{home}/{name}/")
                ray.train.report(
                    {"iteration": self.state.progress.iterations},
                    checkpoint=ray.train.Checkpoint.from_directory(folder),
                    checkpoint_dir_name=name,
                    checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
                    delete_local_checkpoint_after_upload=True,
                )
            self._uploading = folder
            self.metrics.checkpointed(size)


def fetched(reported: ray.train.Checkpoint | None, stack: ExitStack) -> Path | None:
    """The checkpoint's folder on this node, there until `stack` is closed; a collective.

    The workers of a node share it. Ray lets one that comes late fetch it again over the files that
    the others have, so nobody reads before all have fetched.
    """
    if reported is None:
        return None
    folder = Path(stack.enter_context(reported.as_directory()))
    dist.barrier()
    return folder
