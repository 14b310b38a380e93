"""`ray job submit ... -- python jobs/evaluate.py MODEL ...`: the same as `flash-ray evaluate`."""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
