"""`python jobs/train_teacher.py DIR`: trains the miniature's teacher; again, to go on with it."""

import logging
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.ends import run_command
from flash_ray.miniature.training.teacher import TeacherPlan


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="For everything it makes.")],
    vae_steps: int = TeacherPlan.vae_steps,
    transformer_steps: int = TeacherPlan.transformer_steps,
    careless_steps: Annotated[
        int, typer.Option(help="The last of them, on careless captions.")
    ] = TeacherPlan.careless_steps,
    examples: Annotated[
        int, typer.Option(help="Pictures for each task and kind of caption.")
    ] = TeacherPlan.examples,
    vae: Annotated[
        Path | None, typer.Option(help="Folder of a trained VAE, to take instead of training one.")
    ] = None,
    cases: Annotated[int, typer.Option(help="Cases of each category to score it on.")] = 24,
) -> None:
    """Train the miniature's teacher, score it, and write its card."""
    if not 0 <= careless_steps <= transformer_steps:
        raise typer.BadParameter(
            f"--careless-steps: {careless_steps}; allowed: 0 to --transformer-steps, "
            f"{transformer_steps}; lower it"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from flash_ray.miniature.training.cards import write_teacher_card
    from flash_ray.miniature.training.teacher import train_teacher

    plan = TeacherPlan(vae_steps, transformer_steps, careless_steps, examples)
    pipeline = train_teacher(folder, plan, vae)
    write_teacher_card(pipeline, plan, cases)
    typer.echo(pipeline)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    run_command(partial(app, standalone_mode=False))
