"""`python -m tests.benchmarks.studies`: trials per hour of a study, and of the same trials alone.

Trials of the miniature: three mixtures of tasks under one seed or more, on one worker each.
- The study: one `flash-ray study run`. Its trials share a Ray, the teacher and the conditions,
  which are encoded once; as many train at the same time as the machine has cores for.
- One by one: for each trial a `flash-ray distill` of the same recipe, with a Ray, a teacher and
  an empty store and condition cache of its own.
Both train for as many iterations, score the same number of pictures and publish every student. With
one seed it took ten minutes on two cores that had other work.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from flash_ray.recipe import dump_yaml
from flash_ray.studies.study import load_study, plan_trials

SCORED = 4  # pictures of each category that `flash-ray distill` scores


def main(
    iterations: Annotated[int, typer.Option(min=1, help="Student updates of each trial.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each mixture of tasks.")] = 1,
) -> None:
    """Print trials per hour of a study and of its trials one by one, and their ratio."""
    with tempfile.TemporaryDirectory(prefix="flash-ray-bench-") as name:
        folder = Path(name)
        file = folder / "study.yaml"
        file.write_text(
            yaml.safe_dump(_study(iterations, seeds), sort_keys=False), encoding="utf-8"
        )
        trials = plan_trials(load_study(str(file)))
        run = ["study", "run", str(file), "--out", str(folder / "study")]
        together = _seconds(run, folder / "study-cache")
        alone = 0.0
        for trial in trials:
            recipe = folder / f"{trial.name}.yaml"
            recipe.write_text(dump_yaml(trial.recipe), encoding="utf-8")
            run = ["distill", str(recipe), "--store", str(folder / trial.name)]
            alone += _seconds(run, folder / f"{trial.name}-cache")
    count = len(trials)
    typer.echo(f"study:      {count} trials in {together:.0f} s, {_hourly(count, together)}")
    typer.echo(f"one by one: {count} trials in {alone:.0f} s, {_hourly(count, alone)}")
    typer.echo(f"ratio: {alone / together:.2f}")


def _study(iterations: int, seeds: int) -> dict[str, object]:
    return {
        "name": "bench",
        "recipe": "miniature",
        "set": {
            "data.num_cases": 256,
            "runtime": {
                "num_workers": 1,
                "micro_batch_size": 8,
                "checkpoint_every": 0,
                "cpus_per_worker": 1.0,
            },
        },
        "arms": {
            "half": {"tasks": {"t2i": 1, "edit": 1}},
            "most": {"tasks": {"t2i": 7, "edit": 3}},
            "images": {"tasks": {"t2i": 1, "edit": 0}},
        },
        "seeds": list(range(seeds)),
        "budget": {"iterations": iterations},
        "cases": {"t2i": SCORED, "edit": SCORED},
    }


def _seconds(words: Sequence[str], cache: Path) -> float:
    """How long a command of flash-ray takes; it has to succeed."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "flash_ray.cli.app", *words],
        env={**environment, "FLASH_RAY_CACHE": str(cache)},
        stdout=sys.stderr,
        check=True,
    )
    return time.monotonic() - started


def _hourly(count: int, seconds: float) -> str:
    return f"{3600 * count / seconds:.1f} trials per hour"


if __name__ == "__main__":
    typer.run(main)
