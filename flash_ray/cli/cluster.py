"""`flash-ray cluster local`: a Ray cluster on this machine."""

from typing import Annotated

import typer

from flash_ray.cluster.local.config import NodeLimits

cluster_app = typer.Typer(help="Clusters to run on.")


@cluster_app.callback()
def _commands() -> None:
    """Has typer see a command of a group: a single one it would take for the group itself."""


@cluster_app.command()
def local(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the job server.")] = 8265,
    trainers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for training.")
    ] = NodeLimits.trainers,
    teachers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for teachers.")
    ] = NodeLimits.teachers,
    servers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for endpoints.")
    ] = NodeLimits.servers,
    cpus: Annotated[
        int, typer.Option(min=1, max=1024, help="CPUs that Ray counts on each node.")
    ] = NodeLimits.cpus,
    idle_s: Annotated[
        float, typer.Option(min=1, max=86400, help="Seconds after which an idle node goes.")
    ] = NodeLimits.idle_s,
    object_store_mib: Annotated[
        int, typer.Option(min=80, max=1048576, help="Object store of each node.")
    ] = NodeLimits.object_store_mib,
) -> None:
    """Run a Ray cluster on this machine whose nodes come and go with the work."""
    from flash_ray.workflows import local_cluster as workflow

    limits = NodeLimits(trainers, teachers, servers, cpus, idle_s, object_store_mib)
    workflow.run(limits, port)
