"""`ray job submit ... -- python jobs/encode.py RECIPE ...`: the same as `flash-ray data encode`."""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["data", "encode", *sys.argv[1:]])
