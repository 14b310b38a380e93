"""`python jobs/specialise_teacher.py DIR`: trains the specialised teacher; again, to go on."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from flash_ray.miniature.specialise import SpecialisedPlan


def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="For everything it makes.")],
    base: Annotated[
        str, typer.Option(help="The base: 'miniature', or a folder that train_teacher.py left.")
    ] = "miniature",
    steps: int = SpecialisedPlan.steps,
    examples: Annotated[
        int, typer.Option(help="Pictures for each task.")
    ] = SpecialisedPlan.examples,
    cases: Annotated[int, typer.Option(help="Cases of each category to score it on.")] = 24,
) -> None:
    """Train the miniature's specialised teacher, score it, and write its card."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from flash_ray.backbones.load import resolve_base
    from flash_ray.evaluation.specialised_card import write_specialised_card
    from flash_ray.miniature.specialise import train_specialised

    plan = SpecialisedPlan(steps, examples)
    lora = train_specialised(folder, Path(resolve_base(base)), plan)
    write_specialised_card(lora, base, plan, cases)
    typer.echo(lora)


if __name__ == "__main__":
    typer.run(main)
