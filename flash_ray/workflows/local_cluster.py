"""`flash-ray cluster local`: runs a local cluster and its store until it is interrupted."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.cluster.local.nodes import Cluster, autoscaling_cluster
from flash_ray.storage.embedded import HOME, open_store

# Where any of them is set, the user has a store, which the nodes are to use.
STORE_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")


def run(limits: NodeLimits, port: int) -> None:
    """Runs a local cluster until Ctrl-C or SIGTERM.

    Raises:
        UserError: as `autoscaling_cluster`.
    """
    stop = threading.Event()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # first of all, so that nothing is left half done
        signal.signal(number, lambda *_: stop.set())
    with _store() as (url, where), autoscaling_cluster(limits, port) as cluster:
        typer.echo(_how_to_use(cluster, limits, url, where))
        stop.wait()
        typer.echo("ending the cluster ...", err=True)
    typer.echo(f"logs: {cluster.folder}", err=True)


@contextmanager
def _store() -> Iterator[tuple[str, str]]:
    """The URL of the store that the nodes use for the block, and a word on where it is."""
    if any(os.environ.get(name) for name in STORE_VARIABLES):
        yield "s3://BUCKET/PREFIX", "of your AWS_* variables"
        return
    with open_store(None, create=True) as store:
        yield store.url(), f"in {HOME}"


def _how_to_use(cluster: Cluster, limits: NodeLimits, url: str, where: str) -> str:
    most = ", ".join(f"{number} {name}" for name, number in limits.most.items())
    return f"""\
jobs and dashboard: {cluster.jobs_url}
Ray: {cluster.address}
token: {cluster.token.source}
store: {url}, {where}
logs: {cluster.folder}/session_latest/logs
nodes: 0 now, at most {most}; an idle one goes after {limits.idle_s:g} s
submit: RAY_AUTH_MODE=token flash-ray submit distill RECIPE --address {cluster.jobs_url} \
--store {url} --follow
Ctrl-C ends it."""
