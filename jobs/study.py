"""`ray job submit ... -- python jobs/study.py run STUDY --out DIR ...`: as `flash-ray study run`.

So too for `search`, `status` and `report`.
"""

import sys

from flash_ray.cli.app import main

if __name__ == "__main__":
    main(["study", *sys.argv[1:]])
