"""`python -m flash_ray.submission.start ...`: a job's entry point, in the job's folder.

It says which packages the image lacks before anything that needs them is imported.
"""

import sys
from pathlib import Path

from flash_ray.submission.requirements import lacking

REQUIREMENTS = "requirements.txt"


def main(words: list[str]) -> None:
    """Runs the `flash-ray` command; exit code 2 and one line if the image cannot."""
    if missing := lacking(Path(REQUIREMENTS).read_text().splitlines()):
        sys.exit(_refused(missing))
    from flash_ray.cli import main as run

    run(words)


def _refused(missing: list[str]) -> int:
    print(
        f"flash-ray: the image of the cluster's nodes lacks {', '.join(missing)}; add it to the "
        "image, or submit with --pip",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main(sys.argv[1:])
