"""Connects a command to Ray: to the cluster of RAY_ADDRESS, or to one of its own."""

import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe


def in_cluster_job() -> bool:
    """Whether there is a cluster to connect to, as in a job that was submitted to one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def validate_embedded_in_job(recipe: Recipe) -> None:
    """Raises UserError if this is a job and its cluster's nodes could not reach the run's store."""
    if in_cluster_job():
        validate_embedded(recipe)


def validate_embedded(recipe: Recipe) -> None:
    """Raises UserError if a cluster's nodes could not reach the run's store."""
    if recipe.runtime.storage.url == "embedded":
        raise UserError(
            "runtime.storage.url: 'embedded' in a Ray cluster; allowed: s3://bucket/prefix that "
            "all its nodes can reach, 'embedded' only without RAY_ADDRESS; "
            "set runtime.storage.url=s3://BUCKET/PREFIX"
        )


@contextmanager
def run_session(recipe: Recipe) -> Iterator[None]:
    """Ray for the block. A local one has room for the recipe, however few cores there are."""
    from flash_ray.cluster.resources import cluster_needs

    with ray_session(cluster_needs(recipe)):
        yield


@contextmanager
def ray_session(needs: Mapping[str, float]) -> Iterator[None]:
    """Ray for the block; a local one has at least these resources."""
    import ray  # here, so that the checks above cost nothing

    if not in_cluster_job():
        cpus = max(os.cpu_count() or 1, math.ceil(needs["CPU"]))
        # A teacher for each core: those that are free may be hired where the number is a range.
        with local_cluster(cpus, int(needs["trainer"]), max(int(needs["teacher"]), cpus)):
            yield
        return
    ray.init(log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def local_cluster(cpus: int, trainers: int, teachers: int) -> Iterator[None]:
    """A Ray on this machine with the places that a run asks for; ended with the block.

    Custom resources keep workers and teachers from counting on the same CPUs.
    """
    import ray
    from ray.util import get_node_ip_address

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
