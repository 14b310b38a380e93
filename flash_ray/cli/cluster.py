"""`flash-ray cluster local`."""

from typing import Annotated

import typer

from flash_ray.cluster.local.config import Plan

cluster_app = typer.Typer(help="Clusters to run on.")


@cluster_app.callback()
def _commands() -> None:
    """Makes typer see commands, where it would take a single one for the group."""


@cluster_app.command()
def local(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the job server.")] = 8265,
    trainers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for training.")
    ] = Plan.trainers,
    teachers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for teachers.")
    ] = Plan.teachers,
    servers: Annotated[
        int, typer.Option(min=0, max=64, help="Most nodes for endpoints.")
    ] = Plan.servers,
    cpus: Annotated[
        int, typer.Option(min=1, max=1024, help="CPUs that Ray counts on each node.")
    ] = Plan.cpus,
    idle_s: Annotated[
        float, typer.Option(min=1, max=86400, help="Seconds after which an idle node goes.")
    ] = Plan.idle_s,
    object_store_mib: Annotated[
        int, typer.Option(min=80, max=1048576, help="Object store of each node.")
    ] = Plan.object_store_mib,
) -> None:
    """Run a Ray cluster on this machine whose nodes come and go with the work."""
    from flash_ray.workflows import local_cluster as command

    command.run(Plan(trainers, teachers, servers, cpus, idle_s, object_store_mib), port)
