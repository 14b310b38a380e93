"""The Ray cluster that a run needs: started locally, or checked."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util import get_node_ip_address

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.teachers.groups import groups


@contextmanager
def local_cluster(cpus: int, trainers: int, teachers: int) -> Iterator[None]:
    """A Ray on this machine with the places that a run asks for; ended with the block.

    Custom resources keep workers and teachers from counting on the same CPUs.
    """
    address = f"{get_node_ip_address()}:{free_port()}"
    with _variable("RAY_GCS_SERVER_PORT", address.rpartition(":")[2]):
        ray.init(
            address="local",
            num_cpus=cpus,
            resources={"trainer": trainers, "teacher": teachers},
            object_store_memory=512 * 2**20,
            include_dashboard=True,  # without it Ray Train logs that it is missing, again and again
            logging_level="ERROR",
            log_to_driver=False,
            # Ray Train frees what a stopped trial held by asking "the" Ray of the machine, and
            # fails where there are two, unless it is told which.
            runtime_env={"env_vars": {"RAY_ADDRESS": address}},
        )
    try:
        yield
    finally:
        ray.shutdown()


def free_port() -> int:
    """A TCP port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """An environment variable for the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def cluster_needs(recipe: Recipe, hiring: bool = True) -> dict[str, float]:
    """Resources that a run holds at the same time, of teachers the fewest; without `hiring` its
    teachers run already."""
    runtime, teachers = recipe.runtime, 0
    if recipe.teaching.placement == "actors" and hiring:
        teachers = sum(group.fewest for group in groups(recipe))
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
