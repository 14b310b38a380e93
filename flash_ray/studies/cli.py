"""The command line of studies: `flash-ray study ...`."""

from pathlib import Path
from typing import Annotated

import typer

study_app = typer.Typer(help="Compare recipes: arms under several seeds, with error bars.")

StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A shipped study's name or a YAML file.")
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the study's results.")]


@study_app.command("run")
def study_run(
    study: StudyName,
    out: Out,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="Trials at the same time; default: as many as fit.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="s3://bucket/prefix, or a folder; default: in the results."
        ),
    ] = None,
) -> None:
    """Run the trials that are not finished yet; after an interruption, the same command goes on."""
    from flash_ray.console import Steps
    from flash_ray.studies import commands

    with Steps() as steps:
        trials = commands.run(study, out, at_once, store, steps)
    typer.echo(f"{len(trials)} trials finished: {out}; now: flash-ray study report {study}")


@study_app.command("status")
def study_status(study: StudyName, out: Out) -> None:
    """Print how far each trial is."""
    from flash_ray.evaluation.tables import status_table
    from flash_ray.studies import commands

    status_table(commands.status(study, out))


@study_app.command("report")
def study_report(
    study: StudyName,
    out: Out,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For the report; default: DIR/report.")
    ] = None,
) -> None:
    """Write tables, verdicts, curves and pictures of what is finished, without running anything."""
    from flash_ray.studies import commands

    typer.echo(f"report: {commands.report(study, out, to) / 'report.html'}")
