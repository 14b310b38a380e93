"""`flash-ray benchmark`: what models are compared on."""

from typing import Annotated

import typer

from flash_ray.cli.options import Overrides, StoreAddress, storage_of
from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe

benchmark_app = typer.Typer(help="Look at benchmarks, and draw what their edits begin with.")
BenchmarkArgument = Annotated[
    str,
    typer.Argument(
        metavar="BENCHMARK",
        help="A registered benchmark, a file of cases or the YAML file of one.",
    ),
]


@benchmark_app.command("describe")
def benchmark_describe(
    benchmark: BenchmarkArgument,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Whose training prompts are compared with the benchmark's."
        ),
    ] = None,
    overrides: Overrides = None,
    store: StoreAddress = None,
) -> None:
    """Print what is in a benchmark, and with --recipe how much of it that trains on."""
    if recipe is None and (overrides or store):
        option = "--set" if overrides else "--store"
        raise UserError(f"{option}: given without --recipe, to which it belongs; add --recipe")
    settings = [*(overrides or []), *storage_of(store)]
    loaded = load_recipe(recipe, settings) if recipe else None
    from flash_ray.cli.tables import benchmark_table
    from flash_ray.workflows.benchmark import describe_benchmark

    description, overlaps = describe_benchmark(benchmark, loaded, store)
    benchmark_table(description)
    for overlap in overlaps:
        typer.echo(overlap)


@benchmark_app.command("draw")
def benchmark_draw(
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="Whose base draws the pictures to edit.")
    ],
    benchmark: Annotated[
        str | None,
        typer.Argument(
            metavar="[BENCHMARK]", help="As `benchmark describe` takes it; default: the recipe's."
        ),
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(min=1, help="Edits of each category that get theirs; default: all."),
    ] = None,
    overrides: Overrides = None,
    store: StoreAddress = None,
) -> None:
    """Draw the pictures that edits begin with, where their cases state prompts for them.

    Commands that need them draw them, too; a server only says that they are missing.
    """
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows.benchmark import draw_benchmark

    with Steps() as steps:
        name, edits, drawn = draw_benchmark(benchmark, loaded, cases, store, steps)
    if edits:
        typer.echo(f"{name}: {drawn} pictures drawn; {edits} edits have theirs")
    else:
        typer.echo(f"{name}: no edit has a picture_prompt; there is nothing to draw")
