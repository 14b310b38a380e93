"""The Ray Train loop: sets a worker up, runs the updates, keeps checkpoints, exports the student.

What the user must act on (UserError) and a diverged student end the loop on all workers at once,
and travel to the driver as the outcome: restarting the workers would not cure them.
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util.queue import Queue
from torch import nn

from flash_ray.cluster.environment import one_process
from flash_ray.data.cache import ConditionCache
from flash_ray.data.select import Shard
from flash_ray.data.stream import Stream
from flash_ray.errors import UserError
from flash_ray.models.base import Model
from flash_ray.models.loading import dtype_of, is_lora, load_model, lora_digest
from flash_ray.recipe import Recipe
from flash_ray.storage.manifest import record
from flash_ray.storage.s3 import Store
from flash_ray.teachers.client import TeacherPool
from flash_ray.teachers.launch import TeacherSet
from flash_ray.teachers.local import InProcessTeachers, TeacherRouter
from flash_ray.teachers.protocol import Group, Teachers, groups
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from flash_ray.telemetry.metrics import RunMetrics, timed
from flash_ray.trainer import checkpoint as state
from flash_ray.trainer.divergence import Diverged, DivergenceMonitor
from flash_ray.trainer.learners import build_engine, ready_deepspeed
from flash_ray.trainer.step import DistillationStep

# The averaged student, frozen -> scores; runs on worker 0 between updates.
Bench = Callable[[nn.Module], dict[str, Any]]
# The same, once, at the end; what it returns goes to the driver.
Final = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Job:
    """What the driver gives to every worker.

    Args:
        teacher_set: the teachers that are running; None for teachers in the workers.
        live: takes a line for every update, for the driver to show.
    """

    recipe: Recipe
    store: Store
    run_name: str
    shards: Sequence[Shard]
    teacher_set: TeacherSet | None
    live: Queue
    bench: Bench | None = None
    final: Final | None = None


@dataclass(frozen=True)
class _Parts:
    """What a worker has loaded.

    Args:
        student, fake: trainable copies of the base's transformer.
        weights: tells the base's and the teachers' weights from others.
        saved_by: workers that saved the checkpoint; None without one.
    """

    backbone: Model
    student: nn.Module
    fake: nn.Module
    stream: Stream
    teachers: TeacherRouter
    weights: str
    saved_by: int | None


@dataclass(frozen=True)
class Outcome:
    """What worker 0 hands back; `refused` and `diverged` are messages."""

    history: list[dict[str, Any]]
    files: dict[str, Any]
    final: Any = None
    refused: str | None = None
    diverged: str | None = None


def student_key(run_name: str) -> str:
    """Where a run's exported student lies in the store, before it is published."""
    return f"runs/{run_name}/student"


def train_worker(config: dict[str, Any]) -> Outcome:
    """Ray Train's train_loop_per_worker; `config` is {"job": Job}."""
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    one_process(job.recipe)
    device = ray.train.torch.get_device()
    with ExitStack() as stack:
        folder = fetched(ray.train.get_checkpoint(), stack)
        parts, problem = None, None
        try:
            parts = _load(job, rank, world, device, folder)
        except UserError as error:
            problem = str(error)
        if refused := _first_problem(problem):
            return Outcome([], {}, refused=refused)
        if parts.saved_by not in (None, world):
            if context.get_local_rank() == 0:  # the workers of a node share the folder
                state.reshard_all(folder)
            dist.barrier()
        run = _Run(job, rank, world, folder, parts)
    try:
        run.train()
    except Diverged as error:  # on every worker: the measures are shared
        return Outcome(run.state.progress.history, {}, diverged=str(error))
    files, final = run.export()
    return Outcome(run.state.progress.history, files, final)


class _Run:
    """A set-up worker."""

    def __init__(self, job: Job, rank: int, world: int, checkpoint: Path | None, parts: _Parts):
        self.job, self.rank, self.world = job, rank, world
        self.recipe, self.weights = job.recipe, parts.weights
        training = self.recipe.training
        ready_deepspeed(self.recipe.runtime.gpu)
        how = (self.recipe, parts.stream.passes, parts.saved_by not in (None, world))
        student = build_engine(parts.student, training.optimizer, *how)
        fake = build_engine(parts.fake, training.fake_score.optimizer, *how)
        self.distiller = DistillationStep(
            self.recipe, parts.backbone, student, fake, parts.teachers, parts.stream
        )
        self.state = state.ResumeState(student, fake, self.distiller.ema, state.Progress())
        self.monitor = DivergenceMonitor()
        self.metrics = RunMetrics(job.run_name, self.recipe, leading=rank == 0)
        if checkpoint:
            self.state.load(checkpoint, rank, world, parts.saved_by)
            for line in self.state.progress.history:
                self.monitor.observe(line["update"], line["measures"])

    def train(self) -> None:
        progress, last = self.state.progress, self.recipe.training.iterations
        while progress.updates < last:
            line = {
                "update": progress.updates + 1,
                "workers": self.world,
                **self.distiller.update(progress.updates),
            }
            measures = line["measures"]
            self.monitor.observe(line["update"], measures)
            progress.updates += 1
            if self._due(self.recipe.evaluation.every) and self.job.bench:
                line["bench"] = self._bench()
            progress.history.append(line)
            if self.rank == 0:
                self.job.live.put_nowait(line)
                self.metrics.updated(line, self.monitor.strain)
            if self._due(self.recipe.runtime.checkpoint_every) or progress.updates == last:
                self._checkpoint(measures)

    def export(self) -> tuple[dict[str, Any], Any]:
        """A collective: worker 0 puts the averaged student into the store; its files' records, and
        what `final` says of it."""
        transformer = self.distiller.ema.gather()
        if transformer is None:
            return {}, None
        with tempfile.TemporaryDirectory() as name:
            transformer.save_pretrained(name)
            files = record(Path(name))
            for path in files:
                self.job.store.put_file(
                    Path(name) / path, f"{student_key(self.job.run_name)}/{path}"
                )
        return files, self.job.final(transformer) if self.job.final else None

    def _due(self, every: int) -> bool:
        return bool(every) and self.state.progress.updates % every == 0

    @timed
    def _bench(self) -> dict[str, Any]:
        transformer = self.distiller.ema.gather()
        scores = self.job.bench(transformer) if transformer is not None else {}
        dist.barrier()
        return scores

    @timed
    def _checkpoint(self, measures: dict[str, float]) -> None:
        updates = self.state.progress.updates
        with tempfile.TemporaryDirectory() as name:
            self.state.save(Path(name), self.recipe.digest, self.weights, self.rank, self.world)
            ray.train.report(
                {"update": updates, **measures},
                checkpoint=ray.train.Checkpoint.from_directory(name),
                checkpoint_dir_name=f"update-{updates:06d}",
            )
            self.metrics.checkpointed(Path(name))


def fetched(checkpoint: ray.train.Checkpoint | None, stack: ExitStack) -> Path | None:
    """A collective: the checkpoint's folder on this node, until `stack` is closed.

    The workers of a node share it. Ray lets one that comes late fetch it again over the files that
    the others have, so nobody reads before all have fetched.
    """
    if checkpoint is None:
        return None
    folder = Path(stack.enter_context(checkpoint.as_directory()))
    dist.barrier()
    return folder


def _load(job: Job, rank: int, world: int, device: torch.device, checkpoint: Path | None) -> _Parts:
    """What may be refused, before anything is shared with the other workers."""
    recipe = job.recipe
    backbone = _load_pipeline(recipe, recipe.base, device)
    student, fake = backbone.copy_transformer(), backbone.copy_transformer()  # before any LoRA
    stream = Stream(recipe, ConditionCache.at(job.store), job.shards, rank, world)
    weights = [fingerprint(backbone.transformer)]
    weights += [lora_digest(t.model) for t in recipe.teachers if is_lora(t.model)]
    running = job.teacher_set.recipe if job.teacher_set else recipe
    places = (
        job.teacher_set.positions(recipe) if job.teacher_set else list(range(len(recipe.teachers)))
    )
    members: list[tuple[Group, Teachers]] = []
    for number, group in enumerate(groups(running)):
        if not set(group.members) & set(places):
            continue
        if job.teacher_set:
            found, teachers = _pool(job, number, group, backbone, rank)
        else:
            found, teachers = _in_process(recipe, group, backbone, device)
        if group.pipeline != recipe.base:
            weights.append(found)
        members.append((group, teachers))
    known = " ".join(weights)
    saved_by = state.check(checkpoint, recipe.digest, known) if checkpoint else None
    router = TeacherRouter(members, places)
    return _Parts(backbone, student, fake, stream, router, known, saved_by)


def _load_pipeline(recipe: Recipe, pipeline: str, device: torch.device) -> Model:
    return load_model(pipeline, dtype_of(recipe), device, encoders=False)


def _in_process(
    recipe: Recipe, group: Group, base: Model, device: torch.device
) -> tuple[str, InProcessTeachers]:
    """The group's weights, and the group itself in this process; LoRAs are added to the base."""
    own = group.pipeline != recipe.base
    backbone = _load_pipeline(recipe, group.pipeline, device) if own else base
    weights = group_fingerprint(recipe, group, backbone.transformer)
    return weights, InProcessTeachers(group_scorer(recipe, group, backbone))


def _pool(job: Job, number: int, group: Group, base: Model, rank: int) -> tuple[str, TeacherPool]:
    """The group's weights, of its own pipeline those that its first actor has, and its actors."""
    teacher_set = job.teacher_set
    if group.pipeline == teacher_set.recipe.base:
        weights = group_fingerprint(teacher_set.recipe, group, base.transformer)
    else:
        weights = ray.get(teacher_set.actors[number][0].fingerprint.remote())
    return weights, teacher_set.pool(number, weights, job.run_name, rank)


def _first_problem(mine: str | None) -> str | None:
    """A collective: the problem of the first worker that has one."""
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, mine)
    return next((problem for problem in problems if problem), None)
