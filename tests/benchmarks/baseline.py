"""`python -m tests.benchmarks.baseline`: what the base scores without any training.

In the student's evaluations the base can take unguided steps at even sigmas or at the student's
own, or half as many guided ones. All answer the cases of the recipe's benchmark from the same
noise.
"""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flash_ray.evaluation.benchmark import load_benchmark
from flash_ray.evaluation.compare import difference, score_answers
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.sample import (
    encode_cases,
    load_base,
    sample_cases,
    student_sampler,
    untrained_samplers,
)
from flash_ray.recipe import load_recipe


def main(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE")] = "miniature",
    cases: Annotated[int, typer.Option(min=1, help="Cases of each category.")] = 16,
) -> None:
    """Print mean scores by task and sampler, and what the student's sigmas add to the others."""
    loaded = load_recipe(recipe)
    name = loaded.evaluation.benchmark
    if name is None:
        raise typer.BadParameter(f"{recipe} names no benchmark")
    benchmark, judge = load_benchmark(name, loaded), load_judge(loaded.evaluation.judge_name)
    model = load_base(loaded)
    at_sigmas = student_sampler(loaded.student.rungs)
    table = Table("task", "sampler", "evaluations", "score", "student's sigmas minus it")
    for task in benchmark.categories:
        answered = benchmark.cases(task, cases)
        batches = encode_cases(model, answered)
        results = {
            sampler: score_answers(
                judge,
                answered,
                sample_cases(model, batches, model.transformer, sampler),
            )
            for sampler in untrained_samplers(loaded)
        }
        for sampler, result in results.items():
            gain = "" if sampler == at_sigmas else _signed(*difference(results[at_sigmas], result))
            table.add_row(task, sampler.title, str(sampler.nfe), f"{result.score:.2f}", gain)
    Console().print(table)


def _signed(mean: float, bounds: tuple[float, float]) -> str:
    return f"{mean:+.2f} [{bounds[0]:+.2f}, {bounds[1]:+.2f}]"


if __name__ == "__main__":
    typer.run(main)
