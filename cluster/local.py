"""`python cluster/local.py ...`: the same as `flash-ray cluster local`."""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["cluster", "local", *sys.argv[1:]])
