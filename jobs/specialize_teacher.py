"""`python jobs/specialize_teacher.py DIR`: trains the specialized teacher; again, to go on."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.ends import run_command
from flash_ray.miniature.training.specialized import SpecializedPlan


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="For everything it makes.")],
    base: Annotated[
        str, typer.Option(help="The base: 'miniature', or a folder that train_teacher.py left.")
    ] = "miniature",
    steps: int = SpecializedPlan.steps,
    examples: Annotated[
        int, typer.Option(help="Pictures for each task.")
    ] = SpecializedPlan.examples,
    cases: Annotated[int, typer.Option(help="Cases of each category to score it on.")] = 24,
) -> None:
    """Train the miniature's specialized teacher, score it, and write its card."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from flash_ray.miniature.training.cards import write_specialized_card
    from flash_ray.miniature.training.specialized import train_specialized
    from flash_ray.models.loading import resolve_base

    plan = SpecializedPlan(steps, examples)
    lora = train_specialized(folder, Path(resolve_base(base)), plan)
    write_specialized_card(lora, base, plan, cases)
    typer.echo(lora)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    run_command(partial(app, standalone_mode=False))
