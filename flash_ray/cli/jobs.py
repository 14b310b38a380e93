"""`flash-ray submit ...`: the commands as jobs of a cluster; `flash-ray jobs ...`: what they do."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flash_ray.cli.options import (
    AtOnce,
    BenchmarkName,
    Cases,
    Judges,
    Overrides,
    Port,
    Publish,
    RecipeName,
    Resume,
    RunName,
    ServedRecipe,
    ServingChanges,
    ServingFile,
    StoreAddress,
    StudyName,
    Task,
    storage_of,
)
from flash_ray.recipe import load_recipe

if TYPE_CHECKING:
    from flash_ray.cluster.jobs.job import Job

submit_app = typer.Typer(help="Run a command as a job of a Ray cluster.")
jobs_app = typer.Typer(help="See, follow, await and stop the jobs of a Ray cluster.")


def _ready_ray(address: str | None) -> str | None:
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it as it is imported
    return address


Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        callback=_ready_ray,
        help="Of the head's dashboard, e.g. http://127.0.0.1:8265; the token comes from "
        "RAY_AUTH_TOKEN_PATH.",
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Print the log; exit as the job does. Ctrl-C detaches.")
]
Again = Annotated[bool, typer.Option("--again", help="Send a job that has ended once more.")]
Pip = Annotated[
    bool, typer.Option("--pip", help="Have the nodes install what flash_ray needs, pinned.")
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id; see `flash-ray jobs list`.")]


@submit_app.command()
def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: RunName = None,
    resume: Resume = False,
    publish: Publish = None,
    store: StoreAddress = None,
    address: Address = None,
    follow: Follow = False,
    again: Again = False,
    pip: Pip = False,
) -> None:
    """Distill a student and publish it."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.workflows.submit import plan_distill

    _send(plan_distill(loaded, name, resume, publish), address, follow, again, pip)


@submit_app.command()
def encode(
    recipe: RecipeName,
    overrides: Overrides = None,
    store: StoreAddress = None,
    address: Address = None,
    follow: Follow = False,
    again: Again = False,
    pip: Pip = False,
) -> None:
    """Encode the cases' conditions ahead, as `flash-ray data encode` does."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.workflows.submit import plan_encode

    _send(plan_encode(loaded), address, follow, again, pip)


@submit_app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A published student, `teacher` or `untrained`.")
    ],
    task: Task,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="Of `teacher` and `untrained`; for a student, what the job needs of a node.",
        ),
    ],
    benchmark: BenchmarkName = None,
    cases: Cases = 16,
    judges: Judges = None,
    overrides: Overrides = None,
    store: StoreAddress = None,
    address: Address = None,
    follow: Follow = False,
    again: Again = False,
    pip: Pip = False,
) -> None:
    """Score a model on one task of a benchmark; the job's log has the result."""
    loaded = load_recipe(recipe, overrides)
    from flash_ray.workflows.submit import plan_evaluate

    job = plan_evaluate(model, loaded, store, task.value, benchmark, cases, judges or [])
    _send(job, address, follow, again, pip)


@submit_app.command()
def study(
    study: StudyName,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder of the results, on the cluster.")
    ],
    at_once: AtOnce = None,
    store: StoreAddress = None,
    address: Address = None,
    follow: Follow = False,
    again: Again = False,
    pip: Pip = False,
) -> None:
    """Run a study's trials that are not finished yet."""
    from flash_ray.workflows.submit import plan_study

    _send(plan_study(study, out, at_once, store), address, follow, again, pip)


@submit_app.command()
def serve(
    recipe: ServedRecipe,
    overrides: Overrides = None,
    settings: ServingFile = None,
    changes: ServingChanges = None,
    store: StoreAddress = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tokens, a file of the cluster's head.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on, of the head.")] = "127.0.0.1",
    port: Port = 8000,
    address: Address = None,
    follow: Follow = False,
    again: Again = False,
    pip: Pip = False,
) -> None:
    """Serve the teacher and the published students until the job is stopped."""
    loaded = load_recipe(recipe, overrides)
    from flash_ray.workflows.submit import plan_serve

    job = plan_serve(loaded, settings, changes or [], store, tokens, (host, port))
    _send(job, address, follow, again, pip)


@jobs_app.command("list")
def jobs_list(address: Address = None) -> None:
    """List the jobs, the latest first."""
    from flash_ray.cli.tables import job_table
    from flash_ray.cluster.jobs.submit import connect

    job_table(connect(address).list_jobs())


@jobs_app.command("logs")
def jobs_logs(job: JobId, address: Address = None, follow: Follow = False) -> None:
    """Print a job's log."""
    from flash_ray.cluster.jobs import logs
    from flash_ray.cluster.jobs.submit import connect

    client = connect(address)
    logs.find(client, job)
    if follow:
        raise typer.Exit(logs.follow(client, job))
    typer.echo(client.get_job_logs(job), nl=False)


@jobs_app.command("wait")
def jobs_wait(job: JobId, address: Address = None) -> None:
    """Wait for a job's end; exit as it does."""
    from flash_ray.cluster.jobs import logs
    from flash_ray.cluster.jobs.submit import connect

    client = connect(address)
    logs.find(client, job)
    raise typer.Exit(logs.follow(client, job, log=False))


@jobs_app.command("stop")
def jobs_stop(job: JobId, address: Address = None) -> None:
    """Stop a job and wait until it has ended."""
    from flash_ray.cluster.jobs import logs
    from flash_ray.cluster.jobs.submit import connect

    client = connect(address)
    if not logs.find(client, job).status.is_terminal():
        client.stop_job(job)
    typer.echo(f"{job} {logs.wait(client, job).status.value}")


def _send(job: "Job", address: str | None, follow: bool, again: bool, pip: bool) -> None:
    from flash_ray.cluster.jobs import logs
    from flash_ray.cluster.jobs.submit import connect, send

    client = connect(address)
    name = send(client, job, again, pip)
    if follow:
        typer.echo(f"submitted {name}", err=True)
        raise typer.Exit(logs.follow(client, name))
    typer.echo(name)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `flash-ray`."""
    app.add_typer(submit_app, name="submit")
    app.add_typer(jobs_app, name="jobs")
