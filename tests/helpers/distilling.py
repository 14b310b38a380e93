"""Shared by the tests of a run: a small base, small recipes, plain processes in place of Ray."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn

from flash_ray.data.cache import ConditionCache
from flash_ray.data.encode import encode_shards
from flash_ray.data.select import plan_cases
from flash_ray.data.source import Shard
from flash_ray.data.stream import Stream
from flash_ray.miniature.source import MiniatureSource
from flash_ray.miniature.training.specialized import LAYERS, save_lora
from flash_ray.models.base import ConditionPair, Model
from flash_ray.models.loading import load_model
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.storage.s3 import Store
from flash_ray.teachers.local import InProcessTeachers, TeacherRouter
from flash_ray.teachers.protocol import groups
from flash_ray.teachers.scorer import group_scorer
from flash_ray.trainer.checkpoint import HISTORY
from flash_ray.trainer.metrics import Evaluated, UpdateMetrics
from flash_ray.trainer.networks import load_networks
from flash_ray.trainer.process_group import Meeting, join
from flash_ray.trainer.setup import Evaluate
from flash_ray.trainer.sharded_base import shard_base
from flash_ray.trainer.step import DistillationStep
from tests.helpers.storage import FolderStore


def build_lora(base: Path, folder: Path, seed: int = 1) -> Path:
    """A saved LoRA of rank 2 for that base, with random weights that matter."""
    transformer = load_model(str(base), torch.float32, "cpu", encoders=False).transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(LAYERS)))
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in get_peft_model_state_dict(transformer).items()
    }
    save_lora(weights, 2, folder)
    return folder


def small_recipe(base: Path, *overrides: str) -> Recipe:
    """The miniature's recipe over a few cases, four iterations, without scores."""
    defaults = [
        f"base={base}",
        "data.num_cases=8",
        "runtime.num_workers=1",
        "runtime.micro_batch_size=4",
        "training.iterations=4",
        "training.precision=fp32",
        "teacher_defaults.placement=in_process",
        "teacher_defaults.guidance_scale=2.0",
        "runtime.checkpoint_every=0",
        "evaluation.every=0",
        "runtime.max_failures=0",
    ]
    return load_recipe("miniature", [*defaults, *overrides])


def encode_locally(recipe: Recipe, folder: Path) -> ConditionCache:
    """The recipe's cases, encoded in this process."""
    cache = ConditionCache(FolderStore(folder / "store"), folder / "cache")
    encode_missing(recipe, cache)
    return cache


def encode_missing(
    recipe: Recipe, cache: ConditionCache, model: Model | None = None
) -> list[Shard]:
    """Encodes in this process what the cache lacks of the recipe's shards, which it returns."""
    shards = plan_cases(recipe, cache.store).shards
    if missing := cache.missing(shards):
        model = model or load_model(recipe.base, torch.float32, "cpu", encoders=True)
        for shard in missing:
            cache.add(shard.digest, encode_alone(model, shard))
    return shards


def encode_alone(model: Model, shard: Shard) -> ConditionPair:
    """The conditions of one of the miniature's shards."""
    (conditions,) = encode_shards(model, [MiniatureSource().with_cases(shard)]).values()
    return conditions


def run_iterations(recipe: Recipe, cache: ConditionCache, out: Path) -> list[UpdateMetrics]:
    """The recipe's iterations on as many processes as it has workers; what each measured.

    Leaves worker 0's averaged student in `out`/student.
    """
    in_processes(recipe.runtime.num_workers, out, _iterations, recipe, cache)
    return read_history(out)


def write_history(out: Path, history: Sequence[UpdateMetrics]) -> None:
    """Leaves a history in `out`, for `read_history`."""
    (out / HISTORY).write_text("".join(metrics.to_json() + "\n" for metrics in history))


def read_history(out: Path) -> list[UpdateMetrics]:
    """The history that a worker left in `out`."""
    return [UpdateMetrics.from_json(line) for line in (out / HISTORY).read_text().splitlines()]


def in_processes(world: int, out: Path, job: Callable[..., None], *args: Any) -> None:
    """Runs job(rank, world, out, *args) in plain processes joined by gloo; all must succeed."""
    out.mkdir(parents=True)
    meeting = Meeting("127.0.0.1", folder=str(out))
    context = multiprocessing.get_context("forkserver")  # imports once for all processes
    context.set_forkserver_preload([__name__])
    workers = [
        context.Process(target=_joined, args=(meeting, rank, world, out, job, args), daemon=True)
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    waiting = list(workers)
    while waiting:
        multiprocessing.connection.wait([worker.sentinel for worker in waiting])
        waiting = [worker for worker in waiting if worker.exitcode is None]
        if any(worker.exitcode for worker in workers):
            for worker in waiting:  # it would wait for the failed one
                worker.kill()
                worker.join()
            waiting = []
    logs = "".join(path.read_text() for path in out.glob("worker-*.log"))
    assert [worker.exitcode for worker in workers] == [0] * world, logs[-3000:]


def _joined(
    meeting: Meeting, rank: int, world: int, out: Path, job: Callable[..., None], args: tuple
) -> None:
    with (out / f"worker-{rank}.log").open("w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(1)
        os.environ["LOCAL_RANK"] = str(rank)
        join(meeting, rank, world, "gloo", timedelta(minutes=30))
        job(rank, world, out, *args)
        torch.distributed.destroy_process_group()


def make_step(
    recipe: Recipe,
    cache: ConditionCache,
    rank: int,
    world: int,
    dtype: torch.dtype = torch.float32,
) -> DistillationStep:
    """The step of a worker that is joined to the others, with teachers in its process."""
    model = load_model(recipe.base, dtype, "cpu", encoders=False)
    if recipe.runtime.base == "sharded":
        shard_base(model.transformer, recipe)
    stream = Stream(recipe, cache, plan_cases(recipe, cache.store).shards, rank, world)
    networks = load_networks(recipe, model, cache.store)
    student, fake_score = networks.learners(stream.passes)
    (group,) = groups(recipe)
    members = [(group, InProcessTeachers(group_scorer(recipe, group, model)))]
    teachers = TeacherRouter(members, group.members)
    return DistillationStep(recipe, model, student, fake_score, teachers, stream)


def _iterations(rank: int, world: int, out: Path, recipe: Recipe, cache: ConditionCache) -> None:
    step = make_step(recipe, cache, rank, world)
    for engine in (step.student, step.fake_score):
        assert engine.module.is_gradient_checkpointing == recipe.runtime.gradient_checkpointing
    history = [step(iteration) for iteration in range(1, recipe.training.iterations + 1)]
    with step.ema.averaged() as student:
        if rank == 0:
            step.model.save_student(student, out / "student")
            write_history(out, history)


class KillOnce:
    """An evaluation that ends its own process the first time, once the run has a checkpoint.

    Args:
        evaluate: what it does from then on.
        marker: a file that is not there yet.
    """

    def __init__(self, evaluate: Evaluate, marker: Path, store: Store, run_name: str) -> None:
        self.evaluate, self.marker, self.store = evaluate, marker, store
        self.checkpoints = f"runs/{run_name}/train/checkpoint_manager_snapshot.json"

    def draw(self, model: Model, transformer: nn.Module) -> Any:
        if not self.marker.exists():
            while b"iteration-000002" not in (self.store.get_bytes(self.checkpoints) or b""):
                time.sleep(0.2)
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.evaluate.draw(model, transformer)

    def score(self, drawn: Any) -> Evaluated:
        return self.evaluate.score(drawn)
