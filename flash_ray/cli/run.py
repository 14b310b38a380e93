"""`flash-ray distill` and `flash-ray demo`."""

from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.options import (
    Cases,
    Overrides,
    Place,
    RecipeName,
    Resume,
    RunName,
    storage_of,
)
from flash_ray.recipe import load_recipe


def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: RunName = None,
    resume: Resume = False,
    store: Place = None,
) -> None:
    """Distill a student as a recipe says, and publish it."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import distill as workflow

    with Steps() as steps:
        published = workflow.distill(loaded, name or loaded.name, resume, store, steps)
    typer.echo(published.url)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the results.")],
    cases: Cases = 16,
    overrides: Overrides = None,
) -> None:
    """Distill the miniature on this machine and compare student and teacher."""
    from flash_ray.cli.tables import comparison_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import demo as workflow

    recipe = load_recipe(workflow.DEMO_RECIPE, overrides)
    with Steps() as steps:
        result = workflow.demo(recipe, out, cases, steps)
    comparison_table(result)
    typer.echo(f"report: {out / 'report.html'}\nstudent: {result['published']}, {out / 'student'}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `flash-ray`."""
    for command in (demo, distill):
        app.command()(command)
