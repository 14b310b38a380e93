"""`python -m tests.benchmarks.evaluation_cost`: what evaluating the averaged student costs a run.

The miniature is distilled for a few iterations on a local Ray, evaluated more often than its preset
says, and the share of the run that evaluations take at the preset's cadence follows. For
`qwen-image-2.1-full` the capacity model counts: every worker waits while one draws.
"""

import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import typer

from flash_ray.capacity.estimate import estimates
from flash_ray.capacity.pipeline import pipeline_of
from flash_ray.capacity.workload import Assumptions, task_tokens
from flash_ray.recipe import load_recipe
from flash_ray.recipe.schema import Task
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.metrics import UpdateMetrics
from flash_ray.workflows.distill import distill

WARM = 2  # iterations, and evaluations, that are not counted: the first ones allocate memory
DECODE_S = 0.122  # one picture of 1024² on an H100, BENCHMARKS.md
CASES: dict[Task, int] = {"t2i": 6, "edit": 6}  # 2 and 1 of each category, as the paper has them


def share(evaluation: float, iteration: float, every: int) -> str:
    """The share of a run that is evaluation, in words."""
    part = evaluation / (evaluation + every * iteration)
    return f"{evaluation:.2f} s every {every} iterations of {iteration:.2f} s: {part:.2%}"


def measured(iterations: int, every: int) -> list[UpdateMetrics]:
    """The history of a run of the miniature's preset that is evaluated every so many iterations."""
    recipe = load_recipe(
        "miniature",
        [
            f"training.iterations={iterations}",
            f"evaluation.every={every}",
            "evaluation.published_cases=0",
            "runtime.checkpoint_every=0",
        ],
    )
    with tempfile.TemporaryDirectory() as name, Steps() as steps:
        return distill(recipe, "cost", "cost", False, str(Path(name) / "store"), steps).history


def counted(gpus: int) -> tuple[float, float]:
    """Seconds of an evaluation and of an iteration of `qwen-image-2.1-full`, as counted."""
    recipe, assumed = load_recipe("qwen-image-2.1-full"), Assumptions()
    pipeline = pipeline_of(recipe.base)
    architecture = pipeline.transformer
    rungs, flops = len(recipe.student.rungs), 0.0
    for tokens in task_tokens(recipe, assumed):
        first = architecture.full_flops(tokens.prefix_tokens, tokens.target_tokens)
        others = architecture.cached_flops(tokens.prefix_tokens, tokens.target_tokens)
        flops += CASES["edit" if tokens.task == "edit" else "t2i"] * (first + (rungs - 1) * others)
    drawing = flops / (assumed.device_flops_per_s * assumed.mfu)
    inside = estimates(recipe, pipeline, assumed, gpus)[0]
    return drawing + sum(CASES.values()) * DECODE_S, inside.timing.seconds


def main(
    iterations: Annotated[int, typer.Option(help="Of the miniature's run.")] = 24,
    every: Annotated[int, typer.Option(help="Iterations between its evaluations.")] = 4,
) -> None:
    """Prints the shares."""
    history = measured(iterations, every)
    evaluations = [m.stages["evaluate"] for m in history if "evaluate" in m.stages][WARM:]
    iteration = median(m.seconds for m in history[WARM:])
    cadence = load_recipe("miniature").evaluation.every or 0
    typer.echo(f"miniature, measured: {share(mean(evaluations), iteration, cadence)}")
    for gpus in (8, 64):
        for cadence in (50, 100, 200):
            typer.echo(
                f"qwen-image-2.1-full, {gpus} GPUs, counted: {share(*counted(gpus), cadence)}"
            )


if __name__ == "__main__":
    typer.run(main)
