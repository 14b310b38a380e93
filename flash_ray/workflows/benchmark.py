"""`flash-ray benchmark`: what is in one, and whether a recipe trains on it."""

from typing import TYPE_CHECKING

from flash_ray.evaluation.benchmark import ARGUMENT, load_benchmark, named_benchmark
from flash_ray.evaluation.describe import BenchmarkDescription
from flash_ray.evaluation.describe import describe_benchmark as describe
from flash_ray.recipe import Recipe
from flash_ray.workflows.data import training_overlap

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
