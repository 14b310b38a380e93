"""Connects a command to Ray: to the cluster of RAY_ADDRESS, or to one of its own."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flash_ray.errors import UserError
from flash_ray.recipe import Recipe


def is_job() -> bool:
    """Whether there is a cluster to connect to, as in a job that was submitted to one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def refuse_embedded_in_job(recipe: Recipe) -> None:
    """Raises UserError if this is a job and its cluster's nodes could not reach the run's store."""
    if is_job():
        refuse_embedded(recipe)


def refuse_embedded(recipe: Recipe) -> None:
    """Raises UserError if a cluster's nodes could not reach the run's store."""
    if recipe.runtime.storage.url == "embedded":
        raise UserError(
            "runtime.storage.url: 'embedded' in a Ray cluster; allowed: s3://bucket/prefix that "
            "all its nodes can reach, 'embedded' only without RAY_ADDRESS; "
            "set runtime.storage.url=s3://BUCKET/PREFIX"
        )


@contextmanager
def connected(recipe: Recipe) -> Iterator[None]:
    """Ray for the block. A local one has room for the recipe, however few cores there are."""
    from flash_ray.distill.cluster import cluster_needs

    with connected_with(cluster_needs(recipe)):
        yield


@contextmanager
def connected_with(needs: Mapping[str, float]) -> Iterator[None]:
    """Ray for the block; a local one has at least these resources."""
    import ray  # here, so that the checks above cost nothing

    from flash_ray.distill.cluster import local_cluster

    if not is_job():
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
