"""`python -m tests.benchmarks.orchestration`: what a run adds to the bare loop, on one core.

A worker's step (stream, DeepSpeed engines of ZeRO 2 in a group of one process, teacher in the
process, metrics, average) and a bare loop with flat fp32 weights take the same micro-batches at the
same rungs in turns, in bf16: the miniature's transformer, and one whose blocks are wider. The clock
is the CPU seconds of the process; Ray's own processes are not in it.
"""

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from flash_ray.miniature.captions import corpus
from flash_ray.miniature.pipeline import TRANSFORMER_CONFIG
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.trainer import rng
from tests.benchmarks.gpu.loop import full_loop
from tests.benchmarks.turns import in_turns, ratio
from tests.helpers.distilling import encode_locally, make_step, small_recipe
from tests.helpers.small import untrained_pipeline

AIM = 1.05
WIDE = {"num_layers": 2, "num_attention_heads": 16}  # 768 channels


def compare(name: str, config: Mapping[str, Any], repeats: int, folder: Path) -> str:
    """A row of the table."""
    untrained_pipeline(tuple(corpus(60)), {**TRANSFORMER_CONFIG, **config}).save_pretrained(
        folder / "base"
    )
    recipe = small_recipe(
        folder / "base",
        "runtime.micro_batch_size=8",
        "runtime.zero_stage=2",
        "training.iterations=1000",
        "training.precision=bf16",
        "teacher_defaults.guidance_scale=1.0",
        "data.num_cases=16",
    )
    step = make_step(recipe, encode_locally(recipe, folder), 0, 1, dtype=torch.bfloat16)
    assert isinstance(step.model, QwenImage21)
    training = recipe.training
    loop = full_loop(
        step.model,
        (training.optimizer, training.fake_score.optimizer),
        recompute=False,
        decay=training.ema_decay,
        method=step.method,
        updates=training.fake_score.updates_per_iteration,
    )
    ours, theirs = count(1), count(1)

    def bare() -> None:
        number = next(theirs)
        batch = step.stream[number - 1]
        rung = step.method.sample_rung(rng.generator(recipe.seed, batch.number, "rung"))
        loop.iteration(number, batch.conditions, rung)

    seconds = in_turns({"bare": bare, "run": lambda: step(next(ours))}, repeats)
    total = sum(seconds["run"]) / sum(seconds["bare"])
    return (
        f"| {name} | {repeats} | {sum(seconds['bare']) / repeats:.2f} | "
        f"{ratio(seconds['run'], seconds['bare'])} | {total:.3f} | "
        f"{'met' if total <= AIM else 'not met'} |"
    )


def main(
    repeats: Annotated[int, typer.Option(help="Iterations of each.")] = 16,
) -> None:
    """Prints the run's seconds over the bare loop's."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed asks for it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(f"| | iterations | bare loop s | run / bare, turn by turn | of the sums | aim {AIM} |")
    print("|---|--:|--:|--:|--:|---|")
    for name, config in (("miniature", {}), ("768 channels, 2 blocks", WIDE)):
        with TemporaryDirectory() as folder:
            print(compare(name, config, repeats, Path(folder)), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
