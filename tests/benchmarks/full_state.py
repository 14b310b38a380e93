"""`python -m tests.benchmarks.full_state`: what full students take to load, to save and to resize.

Two workers make a student and a fake score of 2.3e8 random weights from the base in their memory;
then three take up what the two have saved of the student. Memory is that of a worker's tensors
beside the base, in copies of the base's bf16 weights. Under ZeRO 3 a copy of each engine's is the
buffer of gradients on their way, which at this size is as large as the model.
"""

import json
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from flash_ray.capacity.tables import wide_console
from flash_ray.models.base import Model
from flash_ray.models.sampling import velocity_of
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.trainer.learners import ready_deepspeed
from flash_ray.trainer.networks import load_networks
from flash_ray.trainer.protocol import Learner
from tests.benchmarks.gpu.networks import Size, as_model, build_transformer, conditions_of
from tests.helpers.distilling import in_processes
from tests.helpers.storage import MemoryStore

CONFIG = {"num_layers": 16, "num_attention_heads": 8, "attention_head_dim": 128}
CPU = torch.device("cpu")
SAVING, LOADING = 2, 3  # workers, each of 3 GB
GB = 1e9


def _allocated(profiled: profile) -> tuple[int, int]:
    """Bytes of tensors at most and at the end, by torch's allocator."""
    events = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = list(accumulate(change for _, change in changes))
    return max(held), held[-1]


def _recipe(stage: int, workers: int) -> Recipe:
    return load_recipe(
        "qwen-image-2.1-full",
        [
            f"runtime.zero_stage={stage}",
            f"runtime.num_workers={workers}",
            "runtime.gradient_accumulation_steps=1",
            "runtime.global_batch_size=null",
            "runtime.gpu=false",
        ],
    )


def _learners(stage: int, workers: int) -> tuple[Model, tuple[Learner, Learner], dict[str, Any]]:
    recipe = _recipe(stage, workers)
    ready_deepspeed(gpu=False)
    model = as_model(build_transformer(CONFIG, torch.bfloat16, CPU))
    copy = sum(weight.nbytes for weight in model.transformer.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        learners = load_networks(recipe, model, MemoryStore("bucket")).learners(1)
    most, held = _allocated(profiled)
    return model, learners, {"peak": most / copy, "held": held / copy}


def _save(rank: int, world: int, out: Path, stage: int) -> None:
    model, (student, _), facts = _learners(stage, world)
    width = int(model.transformer.config.context_in_dim)
    conditions = conditions_of("t2i", Size(side=32, text=8), width, CPU)
    velocity = velocity_of(model, student, conditions)
    noise = torch.randn(1, conditions.layout.tokens, model.latent_channels)
    student.backward(velocity(noise, torch.full((1,), 0.5)).float().square().mean())
    student.step()  # it makes the moments
    start = time.process_time()
    (record,) = student.save(out / "saved").values()
    facts |= {"seconds": time.process_time() - start, "bytes": record.bytes}
    (out / f"facts-{rank}.json").write_text(json.dumps(facts))


def _load(rank: int, world: int, out: Path, stage: int, saved: Path) -> None:
    _, (student, _), _ = _learners(stage, world)
    dist.barrier()
    start, cpu = time.monotonic(), time.process_time()
    student.load(saved)
    facts = {"seconds": time.process_time() - cpu, "wall": time.monotonic() - start}
    (out / f"facts-{rank}.json").write_text(json.dumps(facts))


def _facts(folder: Path) -> list[dict[str, float]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("facts-*.json"))]


def command(
    stages: Annotated[list[int], typer.Option("--stage", min=1, max=3)] = [2, 3],  # noqa: B006
) -> None:
    """Measure both on this machine (10 minutes)."""
    table = Table("ZeRO", "what", "value")
    for stage in stages:
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            in_processes(SAVING, home / "save", _save, stage)
            in_processes(LOADING, home / "load", _load, stage, home / "save/saved")
            saved, loaded = _facts(home / "save"), _facts(home / "load")
        size = sum(each["bytes"] for each in saved) / GB
        rows = {
            "peak while both engines are made, copies": max(each["peak"] for each in saved),
            "held by both, copies": max(each["held"] for each in saved),
            "saved, GB": size,
            "saved and hashed, CPU s per GB": sum(each["seconds"] for each in saved) / size,
            "taken up by 3 workers, CPU s per GB": sum(each["seconds"] for each in loaded) / size,
            "the same, s": max(each["wall"] for each in loaded),
        }
        for what, value in rows.items():
            table.add_row(str(stage), what, f"{value:.2f}")
        table.add_section()
    wide_console().print(table)


if __name__ == "__main__":
    typer.run(command)
