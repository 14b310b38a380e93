"""The Ray cluster that a run needs: started locally, or checked."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.groups import groups


@contextmanager
def local_cluster(cpus: int, trainers: int, teachers: int) -> Iterator[None]:
    """A Ray on this machine with the places that a run asks for; ended with the block.

    Custom resources keep workers and teachers from counting on the same CPUs.
    """
    ray.init(
        address="local",
        num_cpus=cpus,
        resources={"trainer": trainers, "teacher": teachers},
        object_store_memory=512 * 2**20,
        include_dashboard=True,  # without it Ray Train logs that it is missing, again and again
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def cluster_needs(recipe: Recipe, hiring: bool = True) -> dict[str, float]:
    """Resources that a run holds at the same time; without `hiring` its teachers run already."""
    runtime, teachers = recipe.runtime, 0
    if recipe.teaching.placement == "actors" and hiring:
        teachers = sum(group.replicas for group in groups(recipe))
    processes = runtime.workers + teachers
    return {
        "trainer": runtime.workers,
        "teacher": teachers,
        "CPU": processes * runtime.cpus_per_worker,
        "GPU": processes if runtime.gpu else 0,
    }


def check_cluster(recipe: Recipe, hiring: bool = True) -> None:
    """Raises UserError if the cluster that Ray is connected to cannot hold the run."""
    offered = ray.cluster_resources()
    fields = {
        "trainer": "runtime.workers",
        "teacher": "teaching.replicas",
        "CPU": "runtime.cpus_per_worker",
        "GPU": "runtime.gpu",
    }
    for resource, needed in cluster_needs(recipe, hiring).items():
        if needed > offered.get(resource, 0) + 1e-6:
            raise UserError(
                f"{fields[resource]}: the run needs {needed:g} {resource}, the cluster has "
                f"{offered.get(resource, 0):g}; lower it, or add nodes with that resource"
            )
