"""Where the seconds go: by stage, each counted once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage, of this process; a stage inside another does not count for the outer one.

    On a GPU a stage ends when its work is queued, unless it waits for a result.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """The block is of that stage."""
        start, counted = self._clock(), self._total()
        try:
            yield
        finally:
            inside = self._total() - counted
            own = self._clock() - start - inside
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own

    def _total(self) -> float:
        return sum(self.seconds.values())
