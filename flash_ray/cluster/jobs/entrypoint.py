"""The entry point of jobs, `python -m flash_ray.cluster.jobs.entrypoint COMMAND ...`.

It says which packages the image lacks before anything that needs them is imported. With
`--check GPU=1` it is a job on the head that comes before one whose entry point asks for that: Ray
lets a job wait a quarter of an hour for what no node offers.
"""

import logging
import os
import runpy
import shutil
import sys
import tempfile
from typing import NoReturn

from flash_ray.cluster.environment import image_problem


def main(words: list[str]) -> None:
    """Checks the image; then the cluster, for `--check NAME=AMOUNT`, or runs a command."""
    if problem := image_problem():
        _fail(problem)
    if words[:1] == ["--check"]:
        check(words[1:])
    else:
        run(words)


def check(amounts: list[str]) -> None:
    """Exits with code 2 and one line if no node can offer the amounts, each NAME=AMOUNT."""
    import ray

    from flash_ray.cluster.resources import can_provision

    bundle = {name: float(amount) for name, amount in (word.split("=") for word in amounts)}
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    if not can_provision([bundle]):
        _fail(
            f"no node type of the cluster offers {' '.join(amounts)}, which the job's entry point "
            "asks for because of runtime.gpu; add nodes with it, or correct the recipe"
        )


def run(words: list[str]) -> None:
    """Runs a `flash-ray` command in a copy of the job's folder.

    Nodes of one machine share that folder, and each unpacks it anew: it would vanish meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        shutil.copytree(".", folder, dirs_exist_ok=True)
        os.chdir(folder)
        sys.argv[1:] = words
        runpy.run_module("flash_ray", run_name="__main__")


def _fail(problem: str) -> NoReturn:
    print(f"flash-ray: {problem}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
