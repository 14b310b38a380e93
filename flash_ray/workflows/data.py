"""`flash-ray data`: what a run will see, and its conditions encoded ahead; checks first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flash_ray.cluster.session import validate_embedded_in_job, validate_gpu
from flash_ray.data.select import plan_cases, validate_data
from flash_ray.data.source import load_source
from flash_ray.evaluation.benchmark import Benchmark, load_benchmark
from flash_ray.models.loading import with_pinned_base
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.progress import Steps
from flash_ray.workflows.distill import open_run_store, validate_cluster

if TYPE_CHECKING:
    from flash_ray.data.describe import Description
    from flash_ray.data.encode import Prepared
    from flash_ray.evaluation.overlap import Overlap


def describe_data(recipe: Recipe, store_address: str | None) -> "tuple[Description, list[Overlap]]":
    """Says what a run will see, and how many prompts of its benchmark it trains on.

    Args:
        store_address: the embedded store's folder, if that is used; None: the default one.

    Raises:
        UserError: the data or the benchmark cannot be used.
    """
    choice = recipe.evaluation.benchmark
    benchmark = load_benchmark(choice, recipe, "evaluation.benchmark") if choice else None
    with _readable_data(recipe, store_address) as store:
        from flash_ray.data.describe import describe
        from flash_ray.evaluation.overlap import find_overlap

        overlaps = find_overlap(benchmark, plan_cases(recipe, store)) if benchmark else []
        return describe(recipe, store), overlaps


def training_overlap(
    recipe: Recipe, benchmark: Benchmark, store_address: str | None
) -> "list[Overlap]":
    """How many prompts of a benchmark a recipe trains on, by task.

    Args:
        store_address: the embedded store's folder, if that is used; None: the default one.

    Raises:
        UserError: the data cannot be used.
    """
    with _readable_data(recipe, store_address) as store:
        from flash_ray.evaluation.overlap import find_overlap

        return find_overlap(benchmark, plan_cases(recipe, store))


def encode_data(recipe: Recipe, store_address: str | None, steps: Steps) -> "Prepared":
    """Encodes what the recipe's cases lack.

    Args:
        store_address: the embedded store's folder, if that is used; None: the default one.

    Raises:
        UserError: the data or the cluster cannot be used.
    """
    recipe = with_pinned_base(recipe)
    validate_gpu(recipe)
    with _data_store(recipe, store_address) as store:
        from flash_ray.cluster.session import ray_session
        from flash_ray.data.encode import prepare

        runtime = recipe.runtime
        needs = {"CPU": runtime.max_workers * runtime.cpus_per_worker + 1, "teacher": 0}
        with ray_session({**needs, "trainer": runtime.max_workers}):
            validate_cluster(recipe, store, teachers=0)
            steps.say("list the cases and encode what is not cached")
            prepared = prepare(recipe, store, say=steps.say)
            for line in prepared.complaints:
                steps.say(line)
            return prepared


@contextmanager
def _readable_data(recipe: Recipe, store_address: str | None) -> Iterator[Store]:
    """The store, with a Ray if the source of the data needs one."""
    with _data_store(recipe, store_address) as store:
        if not load_source(recipe).needs_ray:
            yield store
            return
        from flash_ray.cluster.session import ray_session

        with ray_session({"CPU": 1, "trainer": 0, "teacher": 0}):
            yield store


@contextmanager
def _data_store(recipe: Recipe, store_address: str | None) -> Iterator[Store]:
    validate_embedded_in_job(recipe)
    validate_data(recipe)
    with open_run_store(recipe, store_address) as store:
        yield store
