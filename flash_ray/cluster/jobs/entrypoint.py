"""The entry point of jobs, `python -m flash_ray.cluster.jobs.entrypoint COMMAND ...`.

It says which packages the image lacks before anything that needs them is imported.
"""

import os
import runpy
import shutil
import sys
import tempfile

from flash_ray.cluster.environment import image_problem


def main(words: list[str]) -> None:
    """Checks the image, then runs a command."""
    if problem := image_problem():
        print(f"flash-ray: {problem}", file=sys.stderr)
        sys.exit(2)
    run(words)


def run(words: list[str]) -> None:
    """Runs a `flash-ray` command in a copy of the job's folder.

    Nodes of one machine share that folder, and each unpacks it anew: it would vanish meanwhile.
    """
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        shutil.copytree(".", folder, dirs_exist_ok=True)
        os.chdir(folder)
        sys.argv[1:] = words
        runpy.run_module("flash_ray", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
