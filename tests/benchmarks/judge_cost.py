"""`python -m tests.benchmarks.judge_cost`: CPU seconds of the exact judge for a picture.

The pictures are those asked for with noise added, so that the judge has to search. What a process
pays once, its bank of random scenes, is printed apart; so is what a trial of the shipped study pays
for all of its cases.
"""

import time
from statistics import mean
from typing import Annotated

import numpy as np
import typer

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import Edit
from flash_ray.miniature.judge import judge
from flash_ray.recipe.schema import Task

NOISE = 0.03  # standard deviation of what is added to each channel
START = 16  # the first case: those before it are for development
TRIAL: dict[Task, int] = {"t2i": 100, "edit": 48}  # cases of each category


def noisy(target: object, rng: np.random.Generator) -> np.ndarray:
    """A picture of what a case asks for, `(3, 64, 64)` float32 in [0, 1], with noise."""
    (clean,) = draw([target.target if isinstance(target, Edit) else target])
    levels = np.round((clean + rng.normal(0, NOISE, clean.shape)).clip(0, 1) * 255)
    return (levels / 255).astype(np.float32)


def main(
    count: Annotated[int, typer.Option(min=1, help="Pictures of each category.")] = 8,
) -> None:
    """Prints CPU seconds, the bank's, a picture's by category, and a trial's."""
    rng, total = np.random.default_rng(0), 0.0
    for task, per_category in TRIAL.items():
        by_category: dict[str, list[float]] = {}
        for case in MiniatureBenchmark().cases(task, START + count):
            if int(case.id.rpartition("-")[2]) < START:
                continue
            picture_3HW = noisy(case.target, rng)
            if case.category not in by_category:  # this one draws the bank
                started = time.process_time()
                judge(picture_3HW, case.target)
                first = time.process_time() - started
                typer.echo(f"{task}.{case.category}: the first picture {first:.2f} s")
            started = time.process_time()
            judge(picture_3HW, case.target)
            by_category.setdefault(case.category, []).append(time.process_time() - started)
        for category, seconds in by_category.items():
            typer.echo(f"{task}.{category}: a picture {mean(seconds):.3f} s")
            total += per_category * mean(seconds)
    typer.echo(f"a trial, {TRIAL['t2i']} and {TRIAL['edit']} cases a category: {total:.0f} s")


if __name__ == "__main__":
    typer.run(main)
