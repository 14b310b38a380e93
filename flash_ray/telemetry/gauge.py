"""A gauge that keeps its value: Ray exports a value once, and then forgets it."""

import threading
import time
import weakref
from collections.abc import Mapping

from ray.util import metrics

EVERY_S = 3.0  # well below the time between exports


class PersistentGauge:
    """Shows the last value of each set of labels for as long as the process and the object live,
    also while the process waits for something that does not come."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self._gauge = metrics.Gauge(name, text, labels)
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        _keep(self)

    def set(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Sets the value of a set of labels."""
        self._values[tuple((labels or {}).items())] = value
        self.show()

    def show(self) -> None:
        """Exports all values once more."""
        for labels, value in list(self._values.items()):
            self._gauge.set(value, dict(labels))


_kept: weakref.WeakSet[PersistentGauge] = weakref.WeakSet()
_lock = threading.Lock()
_threads: list[threading.Thread] = []


def _keep(gauge: PersistentGauge) -> None:
    with _lock:
        _kept.add(gauge)
        if not _threads:
            _threads.append(threading.Thread(target=_show_all, name="gauges", daemon=True))
            _threads[0].start()


def _show_all() -> None:
    while True:
        time.sleep(EVERY_S)
        with _lock:
            gauges = list(_kept)
        for gauge in gauges:
            gauge.show()
        del gauges
