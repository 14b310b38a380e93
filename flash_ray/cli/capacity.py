"""`flash-ray capacity`: what a recipe would take on clusters that one does not have."""

from typing import Annotated

import typer

from flash_ray.cli.options import RecipeName

SIZES = [8, 64, 512]


def capacity(
    recipe: RecipeName = "qwen-image-2.1-full",
    gpus: Annotated[list[int], typer.Option(help="How many; again for another size.")] = SIZES,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of an assumption, or of the recipe."),
    ] = None,
) -> None:
    """Print what a recipe would take on so many GPUs, by a model that states its assumptions."""
    from flash_ray.capacity.estimate import estimates
    from flash_ray.capacity.pipeline import pipeline_of
    from flash_ray.capacity.tables import (
        bytes_table,
        describe,
        estimate_table,
        read,
        wide_console,
        work_table,
    )
    from flash_ray.capacity.workload import workload

    loaded, assumed = read(recipe, settings or [])
    pipeline = pipeline_of(loaded.base)
    rows = [e for size in gpus for e in estimates(loaded, pipeline, assumed, size)]
    console = wide_console()
    console.print("\n".join(describe(pipeline.transformer, assumed)), highlight=False)
    work = workload(loaded, pipeline.transformer, assumed)
    console.print(work_table(work, loaded.training.fake_score.updates_per_iteration))
    console.print(estimate_table(rows), bytes_table(rows))


def add_to(app: typer.Typer) -> None:
    """Adds the command to `flash-ray`."""
    app.command()(capacity)
