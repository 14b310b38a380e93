"""The life of `flash-ray cluster local`."""

import signal
import threading

import typer

from flash_ray.local_cluster.cluster import Cluster, autoscaling_cluster
from flash_ray.local_cluster.plan import Plan


def run(plan: Plan, port: int) -> None:
    """Runs a local cluster until Ctrl-C or SIGTERM. UserError: see `autoscaling_cluster`."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # from the start: nothing may be left half done
        signal.signal(number, lambda *_: stop.set())
    with autoscaling_cluster(plan, port) as cluster:
        typer.echo(_how_to_use(cluster, plan))
        stop.wait()
        typer.echo("ending the cluster ...", err=True)
    typer.echo(f"logs: {cluster.folder}", err=True)


def _how_to_use(cluster: Cluster, plan: Plan) -> str:
    most = ", ".join(f"{number} {name}" for name, number in plan.most.items())
    return f"""\
jobs and dashboard: {cluster.jobs_url}
Ray: {cluster.address}
token: {cluster.token.place}
logs: {cluster.folder}/session_latest/logs
nodes: 0 now, at most {most}; an idle one goes after {plan.idle_s:g} s
submit: RAY_AUTH_MODE=token ray job submit --address {cluster.jobs_url} --working-dir . -- \
python jobs/encode.py miniature --store s3://BUCKET/PREFIX
Ctrl-C ends it."""
