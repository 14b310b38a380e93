"""Shared by the tests of a run: a small base, small recipes, plain processes in place of Ray."""

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict

from flash_ray.data.cache import ConditionCache
from flash_ray.data.encode import encode_shard
from flash_ray.data.select import plan_shards
from flash_ray.data.stream import Stream
from flash_ray.miniature.training.specialized import LAYERS, save_lora
from flash_ray.models.loading import load_model
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.teachers.local import InProcessTeachers, TeacherRouter
from flash_ray.teachers.protocol import groups
from flash_ray.teachers.scorer import group_scorer
from flash_ray.trainer.learners import build_engine, ready_deepspeed
from flash_ray.trainer.step import DistillationStep


class FolderStore:
    """A store's files in a folder, for tests that need no server."""

    def __init__(self, root: Path):
        self.root = root

    def put_file(self, path: Path, key: str) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.root / key)

    def get_file(self, key: str, path: Path) -> None:
        shutil.copy(self.root / key, path)

    def list(self, prefix: str = "") -> list[str]:
        return [p.relative_to(self.root).as_posix() for p in (self.root / prefix).glob("*")]


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
    """The miniature's recipe over a few cases, four updates, without benches."""
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
    if missing := cache.missing(plan_shards(recipe, {})):
        backbone = load_model(recipe.base, torch.float32, "cpu", encoders=True)
        for shard in missing:
            cache.add(shard.digest, encode_shard(backbone, shard, recipe.data.resolution))
    return cache


def run_updates(recipe: Recipe, cache: ConditionCache, out: Path) -> list[dict[str, Any]]:
    """The recipe's updates on as many processes as it has workers; what each returned.

    Leaves worker 0's averaged student in `out`/student.
    """
    in_processes(recipe.runtime.num_workers, out, _updates, recipe, cache)
    return json.loads((out / "lines.json").read_text())


def in_processes(world: int, out: Path, job: Callable[..., None], *args: Any) -> None:
    """Runs job(rank, world, out, *args) in plain processes joined by gloo; all must succeed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")  # imports once for all processes
    context.set_forkserver_preload([__name__])
    workers = [
        context.Process(target=_joined, args=(port, rank, world, out, job, args), daemon=True)
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
    port: int, rank: int, world: int, out: Path, job: Callable[..., None], args: tuple
) -> None:
    with (out / f"worker-{rank}.log").open("w", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        torch.set_num_threads(1)
        os.environ["LOCAL_RANK"] = str(rank)
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
        job(rank, world, out, *args)
        torch.distributed.destroy_process_group()


def make_distiller(
    recipe: Recipe, cache: ConditionCache, rank: int, world: int, resharded: bool = False
) -> DistillationStep:
    backbone = load_model(recipe.base, torch.float32, "cpu", encoders=False)
    ready_deepspeed(gpu=False)
    training = recipe.training
    stream = Stream(recipe, cache, plan_shards(recipe, {}), rank, world)
    how = (recipe, stream.passes, resharded)
    student = build_engine(backbone.copy_transformer(), training.optimizer, *how)
    fake = build_engine(backbone.copy_transformer(), training.fake_score.optimizer, *how)
    (group,) = groups(recipe)
    members = [(group, InProcessTeachers(group_scorer(recipe, group, backbone)))]
    return DistillationStep(
        recipe,
        backbone,
        student,
        fake,
        TeacherRouter(members, group.members),
        stream,
    )


def _updates(rank: int, world: int, out: Path, recipe: Recipe, cache: ConditionCache) -> None:
    distiller = make_distiller(recipe, cache, rank, world)
    for engine in (distiller.student, distiller.fake):
        assert engine.module.is_gradient_checkpointing == recipe.runtime.gradient_checkpointing
    lines = [distiller.update(number) for number in range(recipe.training.iterations)]
    student = distiller.ema.gather()
    if rank == 0:
        student.save_pretrained(out / "student")
        (out / "lines.json").write_text(json.dumps(lines))
