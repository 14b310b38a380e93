"""The command line of studies: `flash-ray study ...`."""

from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.options import AtOnce, PlaceOfStudy, StudyName

study_app = typer.Typer(help="Compare recipes: arms under several seeds, with error bars.")

Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the study's results.")]


@study_app.command("run")
def study_run(
    study: StudyName, out: Out, at_once: AtOnce = None, store: PlaceOfStudy = None
) -> None:
    """Run the trials that are not finished yet; after an interruption, the same command goes on."""
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import study as commands

    with Steps() as steps:
        trials = commands.run(study, out, at_once, store, steps)
    typer.echo(f"{len(trials)} trials finished: {out}; now: flash-ray study report {study}")


@study_app.command("status")
def study_status(study: StudyName, out: Out) -> None:
    """Print how far each trial is."""
    from flash_ray.cli.tables import status_table
    from flash_ray.workflows import study as commands

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
    from flash_ray.workflows import study as commands

    typer.echo(f"report: {commands.report(study, out, to) / 'report.html'}")


@study_app.command("search")
def study_search(
    study: StudyName,
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            help="asha: combinations drawn at random; optuna: proposed by what scored well."
        ),
    ] = "asha",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Combinations to try; default: all, at most 16."),
    ] = None,
    at_once: AtOnce = None,
    store: PlaceOfStudy = None,
) -> None:
    """Search the study's space for the best recipe, and write it to DIR/best.yaml.

    A trial that scores worse than others did so far is stopped early. A search that was cut off
    begins again; a finished one is left as it is.
    """
    from flash_ray.cli.tables import search_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import study as commands

    with Steps() as steps:
        result = commands.search(study, out, method, trials, at_once, store, steps)
    search_table(result)
    best = out / commands.BEST
    typer.echo(f"best: {best}; now: flash-ray distill {best}")
