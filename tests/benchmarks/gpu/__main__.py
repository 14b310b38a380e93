"""Runs the benchmark; what its processes run lies in a module that they can import by name."""

import typer

from tests.benchmarks.gpu.sections import main

if __name__ == "__main__":
    typer.run(main)
