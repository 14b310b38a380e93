"""`python -m tests.benchmarks.compiled`: what `runtime.compile` gains, and takes at first.

A small random transformer is distilled as a LoRA on one core, text to image and edits at the first
and the last rung, as it is and with its blocks compiled: CPU seconds of the iterations that come
first, of those after them, and how far the student's weights are apart at the end.
"""

import time
from typing import Annotated

import torch
import typer
from torch import Tensor

from flash_ray.recipe.schema import TASKS
from tests.benchmarks.gpu.loop import lora_loop
from tests.benchmarks.gpu.networks import (
    SIGMAS,
    Size,
    as_model,
    build_transformer,
    conditions_of,
)

CPU = torch.device("cpu")
CHANNELS, RANK = 256, 8


def measure(compiled: bool, layers: int, repeats: int) -> tuple[float, float, Tensor]:
    """CPU seconds at first and of the `repeats` after, and the student's weights."""
    config = {
        "num_layers": layers,
        "num_attention_heads": 4,
        "attention_head_dim": CHANNELS // 4,
        "axes_dims_rope": (8, 28, 28),
        "context_in_dim": CHANNELS,
    }
    size = Size(config, side=256, text=64, rank=RANK, dtype=torch.float32)
    model = as_model(build_transformer(config, size.dtype, CPU))
    loop = lora_loop(model, RANK)
    if compiled:
        model.compile_blocks()
    conditions = {task: conditions_of(task, size, CHANNELS, CPU) for task in TASKS}

    def iterations() -> float:
        start = time.process_time()
        for task in TASKS:
            for rung in (0, len(SIGMAS) - 1):
                loop.iteration(1, conditions[task], rung)
        return time.process_time() - start

    first, later = iterations(), [iterations() for _ in range(repeats)]
    return first, sum(later), loop.student.master.detach().clone()


def main(
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the transformer.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Of the four iterations.")] = 3,
) -> None:
    """Print both and their ratio (10 minutes)."""
    torch.set_num_threads(1)
    found = {kind: measure(kind == "compiled", layers, repeats) for kind in ("eager", "compiled")}
    for kind, (first, later, _) in found.items():
        print(f"{kind}: the first four iterations {first:.1f} CPU s, later ones {later:.2f}")
    apart = (found["eager"][2] - found["compiled"][2]).abs().max()
    print(f"compiled / eager: {found['compiled'][1] / found['eager'][1]:.3f}")
    print(f"weights of the student differ by at most {apart:.1e}")


if __name__ == "__main__":
    typer.run(main)
