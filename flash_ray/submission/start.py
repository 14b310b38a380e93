"""`python -m flash_ray.submission.start ...`: a job's entry point, in the job's folder.

It says which packages the image lacks before anything that needs them is imported.
"""

import sys
from pathlib import Path

from flash_ray.submission.requirements import lacking

REQUIREMENTS = "requirements.txt"


def refuse_image() -> None:
    """Exits with code 2 and one line if the image lacks a package."""
    if missing := lacking(Path(REQUIREMENTS).read_text(encoding="utf-8").splitlines()):
        print(
            f"flash-ray: the image of the cluster's nodes lacks {', '.join(missing)}; add it to "
            "the image, or submit with --pip",
            file=sys.stderr,
        )
        sys.exit(2)


def main(words: list[str]) -> None:
    """Runs a `flash-ray` command."""
    refuse_image()
    from flash_ray.cli import main as run

    run(words)


if __name__ == "__main__":
    main(sys.argv[1:])
