"""`ray job submit ... -- python jobs/distill.py RECIPE ...`: the same as `flash-ray distill`."""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
