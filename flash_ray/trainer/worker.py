"""The Ray Train loop: sets a worker up, iterates, keeps checkpoints, exports the student.

What the user must act on (UserError) and a diverged student end the loop on all workers at once,
and travel to the driver as the outcome: restarting the workers would not cure them.
"""

import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from ray.util.queue import Queue
from torch import nn

from flash_ray.cluster.environment import one_process
from flash_ray.data.cache import ConditionCache, ConditionsLost
from flash_ray.data.source import Shard
from flash_ray.data.stream import Stream
from flash_ray.errors import UserError
from flash_ray.models.base import Model
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.models.lora_source import is_lora, lora_digest
from flash_ray.models.quantized import quantize
from flash_ray.recipe import Recipe
from flash_ray.storage.manifest import FileRecord, record
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.s3 import Store
from flash_ray.teachers.client import cause_of
from flash_ray.teachers.launch import TeacherSet
from flash_ray.teachers.local import InProcessTeachers, TeacherRouter
from flash_ray.teachers.protocol import Group, Teachers, groups, teachers_share_base
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from flash_ray.trainer import checkpoint, fatal
from flash_ray.trainer.divergence import Diverged, DivergenceMonitor
from flash_ray.trainer.metrics import Evaluated, UpdateMetrics
from flash_ray.trainer.networks import Networks, load_networks
from flash_ray.trainer.prometheus import RunMetrics
from flash_ray.trainer.scratch import use_scratch, validate_room
from flash_ray.trainer.step import DistillationStep

# (the base without encoders, the averaged student, frozen); runs on worker 0 between iterations.
Evaluate = Callable[[Model, nn.Module], Evaluated]
# The same, once, at the end; what it returns goes to the driver.
Final = Callable[[Model, nn.Module], Any]


@dataclass(frozen=True)
class Sheet:
    """What the averaged student drew after an iteration, a PNG; the iteration's record follows."""

    iteration: int
    png: bytes


@dataclass(frozen=True)
class WorkerConfig:
    """What the driver gives to every worker.

    Args:
        teacher_set: the teachers that are running; None for teachers in the workers.
        live: takes the record of every iteration, sheets, and lines, for the driver to show.
    """

    recipe: Recipe
    store: Store
    run_name: str
    shards: Sequence[Shard]
    teacher_set: TeacherSet | None
    live: Queue
    evaluate: Evaluate | None = None
    final: Final | None = None


@dataclass(frozen=True)
class _Loaded:
    """What a worker has loaded.

    Args:
        networks: what is trained.
        weights: fingerprints of the base's and the teachers' weights.
        saved_by: workers that saved the checkpoint; None without one.
    """

    model: Model
    networks: Networks
    stream: Stream
    teachers: TeacherRouter
    weights: str
    saved_by: int | None


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
    device = ray.train.torch.get_device()
    with ExitStack() as stack:
        folder = fetched(ray.train.get_checkpoint(), stack)
        try:
            loaded = _load_together(given, rank, world, device, folder)
        except checkpoint.Damaged as error:
            return Outcome([], {}, damaged=error)
        except UserError as error:
            return Outcome([], {}, bad_input=str(error))
        except ConditionsLost as error:
            return Outcome([], {}, lost=error.digests)
        if loaded.saved_by not in (None, world) and folder:
            if context.get_local_rank() == 0:  # the workers of a node share the folder
                loaded.networks.reshard(folder)
            dist.barrier()
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
        self, config: WorkerConfig, rank: int, world: int, folder: Path | None, loaded: _Loaded
    ) -> None:
        self.config, self.rank, self.world = config, rank, world
        self.recipe, self.weights = config.recipe, loaded.weights
        resharded = loaded.saved_by not in (None, world)
        student, fake_score = loaded.networks.learners(loaded.stream.passes, resharded)
        self.step = DistillationStep(
            self.recipe, loaded.model, student, fake_score, loaded.teachers, loaded.stream
        )
        self.state = checkpoint.ResumeState(
            student, fake_score, self.step.ema, checkpoint.Progress()
        )
        self.monitor = DivergenceMonitor()
        self.metrics = RunMetrics(config.run_name, self.recipe, leading=rank == 0)
        if folder and loaded.saved_by:
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
            if self._due(self.recipe.evaluation.every) and self.config.evaluate:
                metrics = self._evaluate(self.config.evaluate, metrics)
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
        with self.step.ema.averaged() as transformer, tempfile.TemporaryDirectory() as name:
            if transformer is None:
                return {}, None
            self.step.model.save_student(transformer, Path(name))
            files = record(Path(name))
            for path in files:
                self.config.store.put_file(
                    Path(name) / path, f"{student_key(self.config.run_name)}/{path}"
                )
            final = self.config.final
            return files, final(self.step.model, transformer) if final else None

    def _due(self, every: int | None) -> bool:
        return bool(every and self.state.progress.iterations % every == 0)

    def _evaluate(self, evaluate: Evaluate, metrics: UpdateMetrics) -> UpdateMetrics:
        """Has worker 0 evaluate the averaged student and send what it drew; a collective.

        Returns:
            the iteration's record, on worker 0 with the scores.
        """
        start, scores = time.monotonic(), None
        with self.step.ema.averaged() as transformer:
            if transformer is not None:
                evaluated = evaluate(self.step.model, transformer)
                scores = evaluated.scores or None
                if evaluated.sheet:
                    evaluated.sheet.save(png := io.BytesIO(), "PNG")
                    self.config.live.put_nowait(Sheet(metrics.iteration, png.getvalue()))
        dist.barrier()
        stages = {**metrics.stages, "evaluate": time.monotonic() - start}
        return replace(metrics, scores=scores, stages=stages)

    def _checkpoint(self) -> None:
        iterations = self.state.progress.iterations
        with self.metrics.timed("checkpoint"), tempfile.TemporaryDirectory() as name:
            digest = self.recipe.resume_digest
            self.state.save(Path(name), digest, self.weights, self.rank, self.world)
            ray.train.report(
                {"iteration": iterations},
                checkpoint=ray.train.Checkpoint.from_directory(name),
                checkpoint_dir_name=f"iteration-{iterations:06d}",
            )
            self.metrics.checkpointed(Path(name))


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


def _load_together(
    config: WorkerConfig, rank: int, world: int, device: torch.device, folder: Path | None
) -> _Loaded:
    """Loads on every worker; a collective.

    Raises:
        UserError: on all of them, the message of the first that has bad input.
        ConditionsLost: on all of them, what any of them lacks.
    """
    result: _Loaded | UserError | ConditionsLost
    try:
        result = _load(config, rank, world, device, folder)
    except (UserError, ConditionsLost) as error:
        result = error
    problems: list[UserError | ConditionsLost | None] = [None] * world
    dist.all_gather_object(problems, None if isinstance(result, _Loaded) else result)
    for problem in problems:
        if isinstance(problem, UserError):
            raise problem
    lost = [
        d for problem in problems if isinstance(problem, ConditionsLost) for d in problem.digests
    ]
    if lost or not isinstance(result, _Loaded):
        raise ConditionsLost(dict.fromkeys(lost))
    return result


def _load(
    config: WorkerConfig, rank: int, world: int, device: torch.device, folder: Path | None
) -> _Loaded:
    """Loads what may be rejected, before anything is shared with the other workers."""
    recipe, teacher_set = config.recipe, config.teacher_set
    validate_room(recipe, world, ray.train.get_context().get_local_world_size())
    base = _load_base(recipe, device)
    networks = load_networks(recipe, base.model, config.store)
    cache = ConditionCache.at(config.store, config.live.put_nowait)
    stream = Stream(recipe, cache, config.shards, rank, world)
    fingerprints = [base.weights, *networks.fingerprints]
    endpoint = recipe.runtime.storage.endpoint
    fingerprints += [lora_digest(t.model, endpoint) for t in recipe.teachers if is_lora(t.model)]
    running = teacher_set.recipe if teacher_set else recipe
    positions = teacher_set.positions(recipe) if teacher_set else list(range(len(recipe.teachers)))
    members: list[tuple[Group, Teachers]] = []
    for number, group in enumerate(groups(running)):
        if not set(group.members) & set(positions):
            continue
        teachers: Teachers
        if teacher_set:
            weights = _actors_weights(teacher_set, number, group, base.weights)
            teachers = teacher_set.pool(number, weights, config.run_name, rank)
        else:
            weights, teachers = _in_process(recipe, group, base, device)
        if group.pipeline != recipe.base:
            fingerprints.append(weights)
        members.append((group, teachers))
    known = " ".join(fingerprints)
    saved_by = checkpoint.check(folder, recipe.resume_digest, known) if folder else None
    router = TeacherRouter(members, positions)
    return _Loaded(base.model, networks, stream, router, known, saved_by)


@dataclass(frozen=True)
class _Base:
    """The base, which may be quantized, and the fingerprint of its weights before it was."""

    model: Model
    weights: str


def _load_base(recipe: Recipe, device: torch.device) -> _Base:
    form = recipe.training.base_format
    model = _load_pipeline(recipe, recipe.base, torch.device("cpu") if form else device)
    weights = fingerprint(model.transformer)
    if form:
        quantize(model, form, device)
    return _Base(model, weights)


def _load_pipeline(recipe: Recipe, pipeline: str, device: torch.device) -> Model:
    return load_model(pipeline, dtype_of(recipe), device, encoders=False)


def _in_process(
    recipe: Recipe, group: Group, base: _Base, device: torch.device
) -> tuple[str, InProcessTeachers]:
    """The group's weights, and the group itself in this process; LoRAs are added to the base."""
    if group.pipeline != recipe.base or not teachers_share_base(recipe):
        model = _load_pipeline(recipe, group.pipeline, device)
        base = _Base(model, fingerprint(model.transformer))
    weights = group_fingerprint(recipe, group, base.weights)
    return weights, InProcessTeachers(group_scorer(recipe, group, base.model))


def _actors_weights(teacher_set: TeacherSet, number: int, group: Group, base_weights: str) -> str:
    """The group's weights: the base's, or where it has a pipeline of its own its first actor's.

    Raises:
        UserError: the first actor of the group could not load them.
    """
    try:
        weights = str(ray.get(teacher_set.actors[number][0].fingerprint.remote()))
    except ActorDiedError as error:
        raise UserError(f"teachers: none of {group.pipeline} starts: {cause_of(error)}") from error
    if group.pipeline == teacher_set.recipe.base:
        return group_fingerprint(teacher_set.recipe, group, base_weights)
    return weights
