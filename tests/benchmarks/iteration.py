"""`python -m tests.benchmarks.iteration`: an iteration against Model-Optimizer's, on one core.

Both sides train full copies of the same bf16 transformer with the same optimizer, batch, rungs and
fake-score updates, without guidance and GAN, in turns in one process. Their clock is the CPU
seconds of the process, which other work on the machine moves least. Ratios are flash_ray's seconds
over Model-Optimizer's: of the sums over all rungs, and of each rung.
"""

import time
from typing import Annotated

import torch
import typer

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.base import ConditionPair
from flash_ray.models.loading import load_model
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe.schema import TASKS, Task
from tests.benchmarks.gpu.loop import full_loop
from tests.benchmarks.gpu.networks import SIGMAS, Size, as_model, build_transformer, conditions_of
from tests.benchmarks.gpu.peer import pipeline_of, run_side

AIM = 0.60
# 100M parameters at full depth, as the audit of memory had it.
WIDE = Size(
    full={
        "num_layers": 12,
        "num_attention_heads": 12,
        "attention_head_dim": 64,
        "axes_dims_rope": (8, 28, 28),
        "context_in_dim": 768,
    },
    side=512,
    text=128,
)


def cases(model: QwenImage21, task: Task, batch: int) -> ConditionPair:
    """Conditions of the miniature's first cases."""
    chosen = MiniatureBenchmark().cases(task, batch)[:batch]
    pictures = [list(case.references) for case in chosen] if task == "edit" else None
    return model.encode([case.prompt for case in chosen], pictures, chosen[0].size)


def ratios(
    model: QwenImage21, conditions: ConditionPair, updates: int, rounds: int
) -> tuple[float, list[float]]:
    """flash_ray's seconds over Model-Optimizer's: of all rungs, and of each."""
    loop = full_loop(model, recompute=False, updates=updates)
    theirs = pipeline_of(loop, conditions)
    sides = ("modelopt", "flash_ray")
    for name in sides:
        run_side(name, loop, theirs, conditions, len(SIGMAS) - 1)  # warms up
    seconds = {name: [0.0] * len(SIGMAS) for name in sides}
    for turn in range(rounds):
        for rung in range(len(SIGMAS)):
            for name in sides if turn % 2 else sides[::-1]:
                start = time.process_time()
                run_side(name, loop, theirs, conditions, rung)
                seconds[name][rung] += time.process_time() - start
    ours, others = seconds["flash_ray"], seconds["modelopt"]
    return sum(ours) / sum(others), [a / b for a, b in zip(ours, others, strict=True)]


def main(
    rounds: Annotated[int, typer.Option(help="Readings of each rung and side.")] = 3,
    batch: Annotated[int, typer.Option(help="Cases of an iteration of the miniature.")] = 8,
    wide: Annotated[bool, typer.Option(help="100M parameters at 512x512 too: minutes.")] = False,
) -> None:
    """Prints the ratios by task and by fake-score updates."""
    torch.set_num_threads(1)
    print(f"| model, task | R | flash_ray / Model-Optimizer | by rung | aim {AIM} |")
    print("|---|--:|--:|---|---|")
    miniature = load_model("miniature", torch.bfloat16, "cpu", encoders=True)
    assert isinstance(miniature, QwenImage21)
    transformer = (
        build_transformer(WIDE.full, torch.bfloat16, torch.device("cpu")) if wide else None
    )
    for task in TASKS:
        runs = [("miniature", miniature, cases(miniature, task, batch), rounds)]
        if transformer is not None:
            width = transformer.config.context_in_dim
            drawn = conditions_of(task, WIDE, width, torch.device("cpu"))
            runs.append(("100M", as_model(transformer), drawn, 1))
        for name, model, conditions, times in runs:
            for updates in (2, 4):
                ratio, by_rung = ratios(model, conditions, updates, times)
                rungs = ", ".join(f"{value:.2f}" for value in by_rung)
                print(
                    f"| {name}, {task} | {updates} | {ratio:.3f} | {rungs} | "
                    f"{'met' if ratio <= AIM else 'not met'} |",
                    flush=True,
                )


if __name__ == "__main__":
    typer.run(main)
