"""The table that a search prints."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def search_table(result: Mapping[str, Any]) -> None:
    """Prints the trials of search.json, the highest last score first."""
    rows = sorted(result["trials"], key=lambda row: -_last(row))
    updates = sorted({point[0] for row in rows for point in row["points"]})
    paths = list(rows[0]["values"])
    table = Table(*paths, "state", *(f"at {update}" for update in updates))
    for row in rows:
        scores = {point[0]: f"{point[1]:.2f}" for point in row["points"]}
        state = "best" if row["trial"] == result["best"] else row["state"]
        values = [str(row["values"][path]) for path in paths]
        table.add_row(*values, state, *(scores.get(update, "") for update in updates))
    Console().print(table)


def _last(row: Mapping[str, Any]) -> float:
    return row["points"][-1][1] if row["points"] else 0.0
