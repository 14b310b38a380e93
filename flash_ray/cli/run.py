"""`flash-ray recipe`, `data`, `distill` and `demo`: a run, and what it is made of."""

from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.ends import FAILED
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
from flash_ray.errors import UserError
from flash_ray.recipe import dump_yaml, load_recipe

recipe_app = typer.Typer(help="Look at recipes and check them.")
data_app = typer.Typer(help="Look at training data, write some, and encode it ahead.")


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


@recipe_app.command("plan")
def recipe_plan(
    recipe: RecipeName,
    gpus: Annotated[int, typer.Option(min=1, help="How many there are.")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of each GPU, e.g. 80GB.")],
    host_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of each node, e.g. 1TB.")
    ] = None,
    disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of each node, e.g. 2TB.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of the recipe, or of an assumption."),
    ] = None,
) -> None:
    """Say what the recipe holds on each GPU, node and in the store, and whether that fits.

    The exit code is 1 if it does not; then the smallest changes that make it fit are named.
    """
    from flash_ray.capacity.changes import smallest_changes
    from flash_ray.capacity.pipeline import pipeline_of
    from flash_ray.capacity.plan import Hardware, make_plan, read_size
    from flash_ray.capacity.plan_tables import change_lines, held_table, phase_table, plan_lines
    from flash_ray.capacity.tables import read, wide_console

    loaded, assumed = read(recipe, settings or [])
    hardware = Hardware(
        gpus,
        read_size("--memory", memory),
        read_size("--host-memory", host_memory) if host_memory else None,
        read_size("--disk", disk) if disk else None,
    )
    pipeline, console = pipeline_of(loaded.base), wide_console()
    plan = make_plan(loaded, pipeline, assumed, hardware)
    console.print(held_table(plan), phase_table(plan))
    lines = [*plan_lines(loaded, plan, hardware)]
    if plan.problems:
        lines += change_lines(smallest_changes(loaded, pipeline, assumed, hardware))
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    if plan.problems:
        raise typer.Exit(FAILED)


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


@data_app.command("write")
def data_write(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="A YAML file: what is written, and by whom.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one to go on with.")],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="Whose base draws the pictures of edits."),
    ] = None,
    overrides: Overrides = None,
    store: StoreAddress = None,
) -> None:
    """Have a language model write prompts and edits, by category, as a spec says."""
    if recipe is None and (overrides or store):
        option = "--set" if overrides else "--store"
        raise UserError(f"{option}: given without --recipe, to which it belongs; add --recipe")
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)]) if recipe else None
    from flash_ray.cli.tables import written_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows.write import write_data

    with Steps() as steps:
        written = write_data(spec, out, loaded, store, steps)
    written_table(written)
    if written.problem:
        raise UserError(written.problem)


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
