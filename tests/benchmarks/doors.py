"""`python -m tests.benchmarks.doors`: a server under attack, on this machine.

Prints the latencies of a client with a token, alone and beside 2,000 slow connections without one,
and the gateway's memory under edits of pictures that are small as files and large in memory.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from flash_ray.models.loading import resolve_base
from tests.helpers.attackers import Memory, SlowStrangers, latencies, throw_bombs
from tests.helpers.endpoints import replicas, start_server, store_with_students

MIB = 2**20


def main(
    strangers: Annotated[int, typer.Option(help="slow connections")] = 2000,
    seconds: Annotated[float, typer.Option(help="of each measurement")] = 30.0,
    bombs: Annotated[int, typer.Option(help="edits of four bombs at once")] = 12,
) -> None:
    """Attacks a server of the miniature."""
    console = Console()
    base = Path(resolve_base("miniature"))
    with tempfile.TemporaryDirectory() as folder, store_with_students(base, Path(folder)) as store:
        served = start_server(base, store)
        try:
            table = Table("client with a token", "requests", "p50 s", "p95 s", "max s")
            alone = latencies(served.url, served.token, seconds)
            attack = SlowStrangers(served.url, strangers)
            with attack.attacking():
                time.sleep(strangers / 500)
                beside = latencies(served.url, served.token, seconds)
                held = dict(attack.open)
            for name, found in (("alone", alone), (f"beside {strangers} strangers", beside)):
                quantiles = [f"{np.percentile(found, q):.3f}" for q in (50, 95, 100)]
                table.add_row(name, str(len(found)), *quantiles)
            console.print(table)
            console.print(
                f"connections open at the end: {held}; ended by the server: {attack.ended}"
            )
            (gateway,) = replicas(served, "gateway")
            memory = Memory(gateway)
            with memory.watched():
                answers = throw_bombs(served.url, served.token, bombs)
            console.print(
                f"{bombs} edits of 4 bombs of 25 Mpx at once: {dict(answers)}; gateway "
                f"{memory.before / MIB:.0f} MiB before, {memory.most / MIB:.0f} MiB at most, "
                f"{gateway.memory_info().rss / MIB:.0f} MiB after"
            )
        finally:
            served.stop()


if __name__ == "__main__":
    typer.run(main)
