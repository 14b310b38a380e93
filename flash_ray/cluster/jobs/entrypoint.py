"""`python -m flash_ray.cluster.jobs.entrypoint ...`: a job's entry point, in the job's folder.

It says which packages the image lacks before anything that needs them is imported.
"""

import os
import shutil
import sys
import tempfile

from flash_ray.cluster.requirements import image_problem


def validate_image() -> None:
    """Exits with code 2 and one line if the image lacks a package."""
    if problem := image_problem():
        print(f"flash-ray: {problem}", file=sys.stderr)
        sys.exit(2)


def main(words: list[str]) -> None:
    """Runs a `flash-ray` command, in a copy of the job's folder.

    Nodes of one machine share that folder, and each unpacks it anew: it would vanish meanwhile.
    """
    validate_image()
    from flash_ray.cli.app import main as run

    with tempfile.TemporaryDirectory(prefix="flash-ray-") as own:
        shutil.copytree(".", own, dirs_exist_ok=True)
        os.chdir(own)
        run(words)


if __name__ == "__main__":
    main(sys.argv[1:])
