"""In which order micro-batches of the two tasks follow each other, in an exact ratio."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Task = Literal["t2i", "edit"]


@dataclass(frozen=True)
class Mixture:
    """Any t2i + edit successive micro-batches hold exactly t2i and edit of them, evenly spread.

    A function of the micro-batch's number alone, so that number is all there is to resume.
    """

    t2i: int
    edit: int

    def task(self, n: int) -> Task:
        """The task of micro-batch n, counted from 0 over the whole run."""
        return ("t2i", "edit")[self._at(n)[0]]

    def ordinal(self, n: int) -> int:
        """How many micro-batches of n's task come before n."""
        return self._at(n)[1]

    def count(self, task: Task, n: int) -> int:
        """How many of the first n micro-batches are of a task."""
        edits = n * self.edit // (self.t2i + self.edit)
        return edits if task == "edit" else n - edits

    def _at(self, n: int) -> tuple[int, int]:
        return interleave((self.t2i, self.edit), n)


def interleave(weights: Sequence[int], n: int) -> tuple[int, int]:
    """Which of several streams step n takes, and how many steps before n took it.

    The first stream has its exact share of any sum(weights) successive steps, the second its share
    of those that are left, and so on.
    """
    for index, weight in enumerate(weights):
        rest = sum(weights[index + 1 :])
        before = n * rest // (weight + rest) if rest else 0
        if not rest or (n + 1) * rest // (weight + rest) == before:
            return index, n - before
        n = before
    raise ValueError("no stream to take")
