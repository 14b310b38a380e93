"""`python -m flash_ray.cluster.jobs.check GPU=1`: a job on the head, before one that asks for that.

Ray lets a job whose entry point asks for what no node offers wait for a quarter of an hour.
"""

import sys

from flash_ray.cluster.jobs.entrypoint import validate_image


def main(words: list[str]) -> None:
    """Exits with code 2 and one line if no node can hold the entry point."""
    validate_image()
    import ray

    from flash_ray.cluster.autoscaler import can_provision

    place = {name: float(amount) for name, amount in (word.split("=") for word in words)}
    ray.init(log_to_driver=False, logging_level="ERROR")
    if not can_provision([place]):
        print(
            f"flash-ray: no node type of the cluster offers {' '.join(words)}, which the job's "
            "entry point asks for because of runtime.gpu; add nodes with it, or correct the recipe",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
