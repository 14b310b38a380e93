"""`python -m tests.benchmarks.quantization`: what a quantized base costs on the miniature.

First without training: how far velocities and 4-step pictures of the base are from those of the
base as it is, in fp32. Then one LoRA student for each precision of the base, of the same recipe and
seed, teachers on the same base; all students are drawn on the base as it is, and scored on the same
cases from the same noise. What is trained stays in `--out`: called again, the command goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import torch
import typer
from rich.table import Table

from flash_ray.capacity.tables import wide_console
from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import (
    EncodedBatch,
    encode_cases,
    load_base,
    sample_cases,
    student_sampler,
)
from flash_ray.evaluation.statistics import interval
from flash_ray.models.base import Model
from flash_ray.models.quantized import Format, quantize
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.storage.students import load_student, student_versions
from flash_ray.telemetry.progress import Steps
from flash_ray.trainer.claim import run_exists
from flash_ray.workflows.distill import distill, open_run_store

TIMES = (0.9, 0.75, 0.5, 0.25)  # at which velocities are compared


@dataclass(frozen=True)
class Drawn:
    """What a transformer answered: velocities, pictures uint8 (H, W, 3), scores, all in order."""

    velocities: torch.Tensor
    pictures: np.ndarray
    scores: np.ndarray


class Cases:
    """Encoded cases of both tasks, drawn in as many steps as the recipe's student has."""

    def __init__(self, recipe: Recipe, model: Model, per_category: int) -> None:
        assert recipe.evaluation.benchmark is not None, "the preset names one"
        benchmark = load_benchmark(recipe.evaluation.benchmark, recipe)
        self.judge = load_judge(recipe.evaluation.judge_name)
        self.cases = [
            c for task in benchmark.categories for c in benchmark.cases(task, per_category)
        ]
        self.batches: list[EncodedBatch] = []
        for task in benchmark.categories:
            self.batches += encode_cases(model, benchmark.cases(task, per_category))
        self.sampler = student_sampler(recipe.student.rungs)

    @torch.no_grad()
    def drawn(self, model: Model, transformer: torch.nn.Module) -> Drawn:
        """The answers of a transformer."""
        velocities = [
            model.velocity(
                transformer,
                batch.noise_BNC,
                torch.full((len(batch.cases),), t),
                batch.conditions.positive,
            ).flatten()
            for batch in self.batches
            for t in TIMES
        ]
        pictures = sample_cases(model, self.batches, transformer, self.sampler)
        scores = np.array([each.score for each in self.judge.judge(self.cases, pictures)])
        return Drawn(torch.cat(velocities), np.stack(pictures).astype(float), scores)


def recipe_of(form: Format | None, iterations: int, seed: int) -> Recipe:
    """A short run of the preset, all of which is on the base that `form` says."""
    return load_recipe(
        "miniature-lora",
        [
            f"name=on-{form or 'fp32'}-{iterations}-{seed}",
            f"seed={seed}",
            f"training.iterations={iterations}",
            f"training.base_precision={form or 'null'}",
            "teacher_defaults.quantized=true",
            "training.precision=fp32",
            "data.num_cases=128",
            "evaluation.every=0",
            "evaluation.published_cases=0",
            "runtime.num_workers=1",
            "runtime.micro_batch_size=8",
            "runtime.checkpoint_every=10",
        ],
    )


def distilled(recipe: Recipe, out: Path, steps: Steps) -> Path:
    """The folder of a recipe's student, which is trained first, or trained to its end."""
    store_address, name = str(out / "store"), recipe.name
    with open_run_store(recipe, store_address) as store:
        is_published = name in student_versions(store)
        is_begun = run_exists(store, name)
    if not is_published:
        distill(recipe, name, name, is_begun, store_address, steps)
    with open_run_store(recipe, store_address) as store:
        return load_student(store, name, out / name)


def row(what: str, one: Drawn, other: Drawn) -> tuple[str, ...]:
    """A line of the table: what quantization changed."""
    error = (one.velocities - other.velocities).norm() / other.velocities.norm()
    pixels = abs(one.pictures - other.pictures).mean()
    paired = one.scores - other.scores
    low, high = interval(paired)
    scores = f"{one.scores.mean():.2f}", f"{paired.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
    return what, f"{error:.4f}", f"{pixels:.2f}", *scores


def command(
    out: Annotated[Path, typer.Option(help="Folder of what is done.")] = Path("quantization"),
    iterations: Annotated[int, typer.Option(min=0, help="Of each run; 0: none is run.")] = 40,
    cases: Annotated[int, typer.Option(min=1, help="Of each category.")] = 8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Compare velocities, pictures and scores on bases in fewer bits with those on fp32."""
    plain = recipe_of(None, 1, seed)
    model = load_base(plain)
    asked = Cases(plain, model, cases)
    table = Table("", "velocities", "pixels of 255", "score", "score minus fp32's")
    reference = asked.drawn(model, model.transformer)
    table.add_row("the base in fp32", "", "", f"{reference.scores.mean():.2f}", "")
    forms: tuple[Format, ...] = get_args(Format)
    with Steps() as steps:
        for form in forms:
            steps.say(f"draw on {form}")
            packed = load_base(plain)
            quantize(packed, form, "cpu")
            table.add_row(*row(f"in {form}", asked.drawn(packed, packed.transformer), reference))
        if iterations:
            table.add_section()
            folder = distilled(recipe_of(None, iterations, seed), out, steps)
            reference = asked.drawn(model, model.load_transformer(folder))
            score = f"{reference.scores.mean():.2f}"
            table.add_row(f"a student of {iterations} iterations on fp32", "", "", score, "")
            for form in forms:
                folder = distilled(recipe_of(form, iterations, seed), out, steps)
                student = asked.drawn(model, model.load_transformer(folder))
                table.add_row(*row(f"trained on {form}", student, reference))
    wide_console().print(table)


if __name__ == "__main__":
    typer.run(command)
