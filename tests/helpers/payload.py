"""What somebody who can write a bucket may put there: an object that acts when it is unpickled."""

import os
from pathlib import Path


class Payload:
    """Whoever unpickles it makes the folder."""

    def __init__(self, made: Path):
        self._made = made

    def __reduce__(self):
        return os.mkdir, (str(self._made),)
