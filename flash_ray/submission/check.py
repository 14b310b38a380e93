"""`python -m flash_ray.submission.check GPU=1`: a job on the head, before one that asks for that.

Ray lets a job whose entry point asks for what no node offers wait for a quarter of an hour.
"""

import sys

from flash_ray.submission.start import refuse_image


def main(words: list[str]) -> None:
    """Exits with code 2 and one line if no node can hold the entry point."""
    refuse_image()
    import ray

    from flash_ray.distill.places import can_come

    place = {name: float(amount) for name, amount in (word.split("=") for word in words)}
    ray.init(log_to_driver=False, logging_level="ERROR")
    if not can_come([place]):
        print(
            f"flash-ray: no node type of the cluster offers {' '.join(words)}, which the job's "
            "entry point asks for because of runtime.gpu; add nodes with it, or correct the recipe",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
