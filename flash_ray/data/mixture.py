"""In which order micro-batches of the two tasks follow each other, in an exact ratio."""

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
        return "edit" if self._edits_before(n + 1) > self._edits_before(n) else "t2i"

    def ordinal(self, n: int) -> int:
        """How many micro-batches of n's task come before n."""
        edits = self._edits_before(n)
        return edits if self.task(n) == "edit" else n - edits

    def count(self, task: Task, n: int) -> int:
        """How many of the first n micro-batches are of a task."""
        edits = self._edits_before(n)
        return edits if task == "edit" else n - edits

    def _edits_before(self, n: int) -> int:
        return n * self.edit // (self.t2i + self.edit)
