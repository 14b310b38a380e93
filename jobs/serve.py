"""`ray job submit ... -- python jobs/serve.py RECIPE ...`: the same as `flash-ray serve`."""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
