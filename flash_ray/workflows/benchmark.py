"""`flash-ray benchmark`: what is in one, whether a recipe trains on it, its pictures to edit."""

from typing import TYPE_CHECKING

from flash_ray.cluster.session import validate_embedded_in_job, validate_gpu
from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import ARGUMENT, load_benchmark, named_benchmark
from flash_ray.evaluation.describe import BenchmarkDescription
from flash_ray.evaluation.describe import describe_benchmark as describe
from flash_ray.models.loading import with_pinned_base
from flash_ray.recipe import Recipe
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.data import training_overlap
from flash_ray.workflows.distill import open_run_store, validate_cluster

if TYPE_CHECKING:
    from flash_ray.evaluation.overlap import Overlap


def describe_benchmark(
    word: str, recipe: Recipe | None, store_address: str | None
) -> "tuple[BenchmarkDescription, list[Overlap]]":
    """Says what is in a benchmark, and with a recipe how many of its prompts that trains on.

    Args:
        word: a registered one's name, a file of cases, or the YAML file of a benchmark.
        store_address: the embedded store's folder, if that is used; None: the default one.

    Raises:
        UserError: there is no such benchmark, a row of its files or the recipe's data cannot be
            used.
    """
    choice = named_benchmark(word, ARGUMENT)
    description = describe(choice, recipe)
    if recipe is None:
        return description, []
    benchmark = load_benchmark(choice, recipe, ARGUMENT)
    return description, training_overlap(recipe, benchmark, store_address)


def draw_benchmark(
    word: str | None,
    recipe: Recipe,
    per_category: int | None,
    store_address: str | None,
    steps: Steps,
) -> tuple[str, int, int]:
    """Has a recipe's base draw the pictures that a benchmark's edits begin with, where its cases
    state prompts for them and the store lacks one.

    Args:
        word: as for `describe_benchmark`; None: the recipe's.
        per_category: edits of each category that get theirs, the first ones; None: all.
        store_address: the embedded store's folder, if that is used; None: the default one.

    Returns:
        (the benchmark's name, edits that have theirs now, pictures that were drawn for them).

    Raises:
        UserError: bad input, found before anything is started.
    """
    choice = named_benchmark(word, ARGUMENT) if word else recipe.evaluation.benchmark
    if choice is None:
        raise UserError(
            f"BENCHMARK: missing, and recipe {recipe.name} names none; allowed: the name of a "
            "benchmark, or a file of cases; add it"
        )
    recipe = with_pinned_base(recipe)
    benchmark = load_benchmark(choice, recipe, ARGUMENT if word else "evaluation.benchmark")
    validate_gpu(recipe)
    validate_embedded_in_job(recipe)
    with open_run_store(recipe, store_address) as store:
        from flash_ray.cluster.resources import cluster_needs
        from flash_ray.cluster.session import ray_session
        from flash_ray.evaluation.inputs import drawn_cases, kept_in, undrawn, with_inputs

        cases = drawn_cases(kept_in(benchmark, store), per_category)
        if not (missing := undrawn(cases)):
            return benchmark.name, len(cases), 0
        with ray_session(cluster_needs(recipe, teachers=0)):
            validate_cluster(recipe, store, teachers=0)
            with_inputs(benchmark, recipe, store, per_category, steps)
        return benchmark.name, len(cases), len(missing)
