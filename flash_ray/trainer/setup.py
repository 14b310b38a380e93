"""What a worker loads before it trains, together with the others: all go on, or none does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError
from ray.util.queue import Queue
from torch import nn

from flash_ray.data.cache import ConditionCache, ConditionsLost
from flash_ray.data.source import Shard
from flash_ray.data.stream import Stream
from flash_ray.errors import UserError
from flash_ray.models.base import Model
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.models.lora_source import is_lora, lora_digest
from flash_ray.models.quantized import quantize
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.teachers.client import cause_of
from flash_ray.teachers.launch import TeacherSet
from flash_ray.teachers.local import InProcessTeachers, TeacherRouter
from flash_ray.teachers.protocol import Group, Teachers, groups, teachers_share_base
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from flash_ray.trainer import checkpoint
from flash_ray.trainer.metrics import Evaluated
from flash_ray.trainer.networks import Networks, load_networks
from flash_ray.trainer.scratch import validate_room
from flash_ray.trainer.sharded_base import shard_base

Result = TypeVar("Result")
# (the base without encoders, the averaged student, frozen); runs on worker 0, where the base is
# sharded on all, once, at the end; what worker 0's returns goes to the driver.
Final = Callable[[Model, nn.Module], Any]


class Evaluate(Protocol):
    """Looks at the averaged student between iterations; pickled and sent to the workers."""

    def draw(self, model: Model, transformer: nn.Module) -> Any:
        """All passes through the student: on worker 0, and where the base is sharded on all.

        Args:
            model: the base without encoders.
            transformer: the averaged student, frozen.
        """

    def score(self, drawn: Any) -> Evaluated:
        """What worker 0 says of what it drew."""


@dataclass(frozen=True)
class Once:
    """An evaluation after one iteration, beside those every `evaluation.every`.

    It is made again where a run goes on from before that iteration.
    """

    iteration: int
    evaluate: Evaluate


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
    once: Once | None = None
    final: Final | None = None


@dataclass(frozen=True)
class Loaded:
    """What a worker has loaded.

    Args:
        networks: what is trained.
        weights: fingerprints of the base's and the teachers' weights.
    """

    model: Model
    networks: Networks
    stream: Stream
    teachers: TeacherRouter
    weights: str


@dataclass(frozen=True)
class Base:
    """The base, which may be quantized, and the fingerprint of its weights before it was."""

    model: Model
    weights: str


def load_together(
    config: WorkerConfig, rank: int, world: int, device: torch.device, folder: Path | None
) -> Loaded:
    """Loads on every worker; a collective.

    Raises:
        UserError: on all of them, the message of the first that has bad input.
        ConditionsLost: on all of them, what any of them lacks.
    """
    recipe = config.recipe
    draws = bool(config.evaluate or config.once or config.final)
    draws &= rank == 0 or recipe.runtime.base == "sharded"
    base = _together(lambda: load_base(recipe, device, vae=draws))
    if recipe.runtime.base == "sharded":
        shard_base(base.model.transformer, recipe)
    return _together(lambda: _load(config, rank, world, base, device, folder))


def _together(load: Callable[[], Result]) -> Result:
    """What this worker loads, once all have loaded theirs; a collective. Raises as
    `load_together` does."""
    problem: UserError | ConditionsLost | None = None
    try:
        loaded = load()
    except (UserError, ConditionsLost) as error:
        problem = error
    problems: list[UserError | ConditionsLost | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found in problems:
        if isinstance(found, UserError):
            raise found
    if lost := [
        d for found in problems if isinstance(found, ConditionsLost) for d in found.digests
    ]:
        raise ConditionsLost(dict.fromkeys(lost))
    return loaded


def _load(
    config: WorkerConfig,
    rank: int,
    world: int,
    base: Base,
    device: torch.device,
    folder: Path | None,
) -> Loaded:
    """Loads what may be rejected, before anything is shared with the other workers."""
    recipe, teacher_set = config.recipe, config.teacher_set
    validate_room(recipe, world, ray.train.get_context().get_local_world_size())
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
            weights, teachers = teachers_here(recipe, group, base, device)
        if group.pipeline != recipe.base:
            fingerprints.append(weights)
        members.append((group, teachers))
    known = " ".join(fingerprints)
    if folder:
        context = ray.train.get_context()
        node = context.get_local_rank(), context.get_local_world_size()
        reader = checkpoint.Reader(checkpoint.layout_of(recipe), rank, world, *node)
        checkpoint.check(folder, recipe.resume_digest, known, reader)
    return Loaded(base.model, networks, stream, TeacherRouter(members, positions), known)


def load_base(recipe: Recipe, device: torch.device, vae: bool) -> Base:
    """The recipe's base, quantized as that says; `vae`: whether it draws."""
    form = recipe.training.base_format
    model = _load_pipeline(recipe, recipe.base, torch.device("cpu") if form else device, vae)
    weights = fingerprint(model.transformer)
    if form:
        quantize(model, form, device)
    if recipe.runtime.compile:
        model.compile_blocks()
    return Base(model, weights)


def _load_pipeline(recipe: Recipe, pipeline: str, device: torch.device, vae: bool) -> Model:
    return load_model(pipeline, dtype_of(recipe), device, encoders=False, vae=vae)


def teachers_here(
    recipe: Recipe, group: Group, base: Base, device: torch.device
) -> tuple[str, InProcessTeachers]:
    """The group's weights, and the group itself in this process; LoRAs are added to the base."""
    if group.pipeline != recipe.base or not teachers_share_base(recipe):
        model = _load_pipeline(recipe, group.pipeline, device, vae=False)
        base = Base(model, fingerprint(model.transformer))
    weights = group_fingerprint(recipe, group, base.weights)
    return weights, InProcessTeachers(group_scorer(recipe, group, base.model))


def _actors_weights(teacher_set: TeacherSet, number: int, group: Group, base: str) -> str:
    """The group's weights: the base's, or where it has a pipeline of its own its first actor's.

    Raises:
        UserError: the first actor of the group could not load them.
    """
    try:
        weights = str(ray.get(teacher_set.actors[number][0].fingerprint.remote()))
    except ActorDiedError as error:
        raise UserError(f"teachers: none of {group.pipeline} starts: {cause_of(error)}") from error
    if group.pipeline == teacher_set.recipe.base:
        return group_fingerprint(teacher_set.recipe, group, base)
    return weights
