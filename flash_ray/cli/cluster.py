"""`flash-ray cluster` and `flash-ray telemetry`, the commands of those who operate a cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.errors import UserError
from flash_ray.recipe.plain import read_text

cluster_app = typer.Typer(help="Clusters to run on.")
telemetry_app = typer.Typer(help="Dashboards and alerts.")


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
    from flash_ray.workflows import local_cluster

    limits = NodeLimits(trainers, teachers, servers, cpus, idle_s, object_store_mib)
    local_cluster.run(limits, port)


@telemetry_app.command()
def provision(
    grafana: Annotated[str, typer.Option(metavar="URL", help="Grafana's base address.")],
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="Where Grafana finds Prometheus.")
    ] = "http://localhost:9090",
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds the token; default: $GRAFANA_TOKEN.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Change nothing, print the differences.")] = False,
) -> None:
    """Put folder, data source, dashboards and alert rules into a Grafana."""
    token = _token(token_file, optional=dry_run)
    from flash_ray.telemetry.provision import provision

    for change in provision(grafana, token, prometheus, dry_run):
        verb = "create" if change.current is None else "change"
        if not change.needed:
            typer.echo(f"in step: {change.resource}")
        elif dry_run:
            typer.echo(f"would {verb}: {change.resource}\n{change.diff()}")
        else:
            typer.echo(f"{verb}: {change.resource}")


@cluster_app.callback()
@telemetry_app.callback()
def _group() -> None:
    """Keeps the command's name: typer takes a single command for the group itself."""


def _token(file: Path | None, optional: bool) -> str | None:
    """The token that was given; None if none was and Grafana is only to be read."""
    if file is None:
        if (token := os.environ.get("GRAFANA_TOKEN", "").strip()) or optional:
            return token or None
        raise UserError(
            "GRAFANA_TOKEN: not set; allowed: a service account's token; set it, or name a file "
            "that holds it with --token-file"
        )
    try:
        token = read_text(file).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file: {file} cannot be read; correct it") from error
    if not token:
        raise UserError(f"--token-file: {file} is empty; allowed: a service account's token")
    return token
