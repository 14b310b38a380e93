"""Links to pictures: for a while, whoever knows one may see the picture, without a token."""

import secrets
from time import monotonic

from flash_ray.serving.batching import Lru


class Links:
    """Pictures in memory under names that cannot be guessed.

    Args:
        seconds: that a link holds.
        most: bytes of all pictures; the oldest go when there are more.
    """

    def __init__(self, seconds: float, most: int):
        self._seconds = seconds
        self._files: Lru[tuple[bytes, float]] = Lru(most, lambda entry: len(entry[0]))

    def add(self, file: bytes, ending: str) -> str:
        """Keeps a file; its name, 256 random bits and the ending."""
        name = f"{secrets.token_urlsafe(32)}.{ending}"
        self._files.put(name, (file, monotonic() + self._seconds))
        return name

    def get(self, name: str) -> bytes | None:
        """The file of that name; None if there is none, or no longer."""
        file, until = self._files.get(name) or (b"", 0.0)
        return file if monotonic() < until else None
