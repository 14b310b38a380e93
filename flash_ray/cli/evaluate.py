"""`flash-ray rank`: compares what `flash-ray evaluate --out` wrote."""

from pathlib import Path
from typing import Annotated

import typer


def rank(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Files of `flash-ray evaluate --out`."),
    ],
) -> None:
    """Rank models by the mean of the judges' averages."""
    from flash_ray.cli.tables import rank_table
    from flash_ray.evaluation import rank as ranks

    rank_table(ranks.rank(ranks.read_results(results)))
