"""Tells a student that diverges or collapses, so that its run fails and does not succeed."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

WINDOW = 10  # updates: of the beginning that later ones are compared with, and of an alarm
GROWTH = 10.0  # a measure this many times its beginning has diverged
SPREAD = (0.2, 4.0)  # range of the student samples' scale, relative to the base's
# Measures that may not grow, and what their beginning counts for at least: where the student
# starts as good as the teacher, the gradient starts at zero.
GROWING = {"dmd_gradient": 0.5, "fake_loss": 0.3}


class Diverged(RuntimeError):
    """The student is lost; the message names the measure and since when."""


class DivergenceMonitor:
    """Watches the logged measures of every update; raises Diverged.

    - Any measure that is not finite: at once.
    - `spread`, the scale of the student's samples by channel relative to the base model's at the
      same rung, below `SPREAD[0]` (the samples shrink to a constant), or `excess`, relative to the
      base's finished samples, above `SPREAD[1]`: over `WINDOW` updates in a row.
    - The median over `WINDOW` updates of one of `GROWING` above `GROWTH` times that of the first
      `WINDOW` updates.
    """

    def __init__(self) -> None:
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, deque[float]] = {}
        self._since: dict[str, int] = {}
        self._strain: dict[str, float] = {}

    @property
    def strain(self) -> dict[str, float]:
        """How near each watched measure is to what ends the run, 1 being there; a growing measure
        has one once there are enough updates to compare."""
        return dict(self._strain)

    def observe(self, update: int, measures: Mapping[str, float]) -> None:
        """Takes the measures of update number `update`, from 1 upwards without gaps."""
        for name, value in measures.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at update {update}: the student has diverged")
        spread, excess = measures["spread"], measures["excess"]
        self._strain |= {"spread": SPREAD[0] / max(spread, 1e-6), "excess": excess / SPREAD[1]}
        self._strange_for("spread", spread < SPREAD[0], update, "collapsed", spread)
        self._strange_for("excess", excess > SPREAD[1], update, "blown up", excess)
        for name in GROWING:
            self._growth(name, update, measures[name])

    def _strange_for(self, name: str, strange: bool, update: int, fate: str, value: float) -> None:
        if not strange:
            self._since.pop(name, None)
            return
        since = self._since.setdefault(name, update)
        if update - since + 1 >= WINDOW:
            raise Diverged(
                f"{name} is outside {SPREAD[0]:g} to {SPREAD[1]:g} since update {since} "
                f"({value:.3g} at update {update}): the student's samples have {fate}"
            )

    def _growth(self, name: str, update: int, value: float) -> None:
        first = self._first.setdefault(name, [])
        if len(first) < WINDOW:
            first.append(value)
            return
        last = self._last.setdefault(name, deque(maxlen=WINDOW))
        last.append(value)
        start = max(median(first), GROWING[name])
        if len(last) < WINDOW:
            return
        self._strain[name] = median(last) / (GROWTH * start)
        if self._strain[name] > 1:
            since = update - WINDOW + 1
            raise Diverged(
                f"{name} is {median(last) / start:.3g} times its beginning since update {since} "
                f"({value:.3g} at update {update}): the student has diverged"
            )
