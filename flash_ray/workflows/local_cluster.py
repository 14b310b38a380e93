"""`flash-ray cluster local`: runs a local cluster and its store until it is interrupted."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.cluster.local.nodes import Cluster, autoscaling_cluster, validate_room
from flash_ray.cluster.session import LOOPBACK_ONLY, RAYS_FOLDER
from flash_ray.storage.embedded import HOME, open_store

# Where any of them is set, the user has a store, which the nodes are to use.
STORE_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")


def run(limits: NodeLimits, port: int) -> None:
    """Runs a local cluster until Ctrl-C or SIGTERM.

    Raises:
        UserError: as `autoscaling_cluster`.
    """
    validate_room(limits, port)
    with _store() as (url, where), autoscaling_cluster(limits, port) as cluster:
        typer.echo(_how_to_use(cluster, limits, url, where))
        try:
            threading.Event().wait()
        finally:
            typer.echo(f"ending the cluster ...; logs: {cluster.folder}", err=True)


@contextmanager
def _store() -> Iterator[tuple[str, str]]:
    """The URL of the store that the nodes use for the block, and a word on where it is."""
    if any(os.environ.get(name) for name in STORE_VARIABLES):
        yield "s3://BUCKET/PREFIX", "of your AWS_* variables"
        return
    with open_store(None, create=True) as store:
        yield store.url(), f"in {HOME}"


def _how_to_use(cluster: Cluster, limits: NodeLimits, url: str, where: str) -> str:
    clients = " ".join(f"{name}={value}" for name, value in LOOPBACK_ONLY.items())
    most = ", ".join(f"{number} {name}" for name, number in limits.most.items())
    return f"""\
jobs and dashboard: {cluster.jobs_url}
Ray: {cluster.address}, with {clients}
token: {cluster.token.source}
store: {url}, {where}
logs: {cluster.folder}/{RAYS_FOLDER}/session_latest/logs
nodes: 0 now, at most {most}; an idle one goes after {limits.idle_s:g} s
submit: RAY_AUTH_MODE=token flash-ray submit distill RECIPE --address {cluster.jobs_url} \
--store {url} --follow
Ctrl-C ends it."""
