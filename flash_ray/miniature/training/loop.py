"""What the trainings of the miniature's parts share: a resumable loop and its log."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

log = logging.getLogger(__name__)


class Stateful(Protocol):
    """A model, an optimizer, or an average: what a resumed training needs again."""

    def state_dict(self) -> dict[str, Any]:
        """The state, as plain data and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Takes a state up again."""
        ...


def cosine_lr(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up to `peak`, then a cosine down to a fiftieth of it."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def resumable(
    steps: int, parts: Mapping[str, Stateful], folder: Path, every: int = 500
) -> Iterator[int]:
    """Yields the steps still to do; keeps the state of `parts` in `folder` as it goes.

    A step's random numbers come from its number (`torch.manual_seed(step)`), so a resumed run
    continues as the whole one would.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "state.pt"
    start = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        start = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log.info("resumed at step %d of %d", start, steps)
    for step in range(start, steps):
        torch.manual_seed(step)
        yield step
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({"step": step + 1, **state}, file.with_suffix(".partial"))
            os.replace(file.with_suffix(".partial"), file)


class Journal:
    """Averages measures and writes a line every so many steps, to the log and a JSONL file."""

    def __init__(self, file: Path, every: int = 100, clock: Callable[[], float] = time.monotonic):
        self.file, self.every, self.clock = file, every, clock
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, clock()

    def add(self, step: int, **measures: float) -> None:
        """Takes the measures of a step, counted from 0."""
        for name, value in measures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.count += 1
        if (step + 1) % self.every:
            return
        line = {name: round(total / self.count, 5) for name, total in self.sums.items()}
        line["seconds_per_step"] = round((self.clock() - self.since) / self.count, 4)
        log.info("step %d  %s", step + 1, "  ".join(f"{k} {v:g}" for k, v in line.items()))
        with self.file.open("a") as stream:
            stream.write(json.dumps({"step": step + 1, **line}) + "\n")
        self.sums, self.count, self.since = {}, 0, self.clock()
