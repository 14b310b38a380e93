"""`python -m flash_ray ...`: the same as `flash-ray ...`; what a Ray job runs."""

from flash_ray.cli.app import main

if __name__ == "__main__":
    main()
