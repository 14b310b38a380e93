"""`flash-ray recipe`, `data`, `distill` and `demo`: a run, and what it is made of."""

from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.options import (
    Cases,
    Force,
    Overrides,
    Publish,
    RecipeName,
    Resume,
    RunName,
    StoreAddress,
    storage_of,
)
from flash_ray.recipe import dump_yaml, load_recipe

recipe_app = typer.Typer(help="Look at recipes and check them.")
data_app = typer.Typer(help="Look at a recipe's training data, and encode it ahead.")


@recipe_app.command("show")
def recipe_show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print the whole recipe, defaults included, and its digest."""
    loaded = load_recipe(recipe, overrides)
    typer.echo(f"# digest: {loaded.digest}\n{dump_yaml(loaded)}", nl=False)


@recipe_app.command("check")
def recipe_check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Say whether the recipe can run."""
    from flash_ray.workflows.distill import check_recipe

    loaded = load_recipe(recipe, overrides)
    check_recipe(loaded)
    typer.echo(f"OK {loaded.name} {loaded.digest}")


@data_app.command("describe")
def data_describe(
    recipe: RecipeName, overrides: Overrides = None, store: StoreAddress = None
) -> None:
    """Print what a run will see: counts, shares, passes, layouts, bytes of cached conditions,
    and how many of the benchmark's prompts are trained on."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.cli.tables import data_table
    from flash_ray.workflows.data import describe_data

    description, overlaps = describe_data(loaded, store)
    data_table(loaded, description)
    for overlap in overlaps:
        typer.echo(overlap)


@data_app.command("encode")
def data_encode(
    recipe: RecipeName, overrides: Overrides = None, store: StoreAddress = None
) -> None:
    """Encode the cases' conditions ahead; what is encoded already is left as it is."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows.data import encode_data

    with Steps() as steps:
        prepared = encode_data(loaded, store, steps)
    cases = sum(shard.rows for shard in prepared.shards)
    typer.echo(f"{cases} cases; {prepared.encoded} of {len(prepared.shards)} shards encoded now")


def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: RunName = None,
    resume: Resume = False,
    publish: Publish = None,
    store: StoreAddress = None,
) -> None:
    """Distill a student as a recipe says, and publish it."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import distill as workflow

    with Steps() as steps:
        run = name or loaded.name
        published = workflow.distill(loaded, run, publish or run, resume, store, steps)
    typer.echo(published.url)


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the results.")],
    cases: Cases = 16,
    overrides: Overrides = None,
    force: Force = False,
) -> None:
    """Distill the miniature on this machine and compare student and teacher."""
    from flash_ray.cli.tables import comparison_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import demo as workflow

    recipe = load_recipe(workflow.DEMO_RECIPE, overrides)
    with Steps() as steps:
        result = workflow.demo(recipe, out, cases, force, steps)
    comparison_table(result)
    typer.echo(f"report: {out / 'report.html'}\nstudent: {result['published']}, {out / 'student'}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `flash-ray`."""
    app.add_typer(recipe_app, name="recipe")
    app.add_typer(data_app, name="data")
    for command in (demo, distill):
        app.command()(command)
