"""Several ways to do the same in turns, on one thread: ratios of one run, with intervals."""

import time
from collections.abc import Callable, Mapping

import numpy as np


def in_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of the process for each way and repeat; each way is warmed up once."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name in list(ways)[:: 1 if repeat % 2 else -1]:
            start = time.process_time()
            ways[name]()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> str:
    """The median of the ratios turn by turn, and the range of nine turns in ten."""
    low, median, high = np.quantile(np.array(ours) / np.array(theirs), (0.05, 0.5, 0.95))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"
