"""Which cases of a benchmark a study draws: for curves, for scores, from several noises."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flash_ray.evaluation.benchmark import Benchmark, Case, first_cases, first_of_each
from flash_ray.recipe.schema import Task


@dataclass(frozen=True)
class CaseRange:
    """Successive cases of each category.

    Args:
        counts: how many of each category, by task.
        start: how many of each category come before them.
        noises: how often each case is answered, each time from another noise.
    """

    counts: Mapping[Task, int]
    start: int = 0
    noises: int = 1

    def of(self, benchmark: Benchmark) -> dict[Task, list[Case]]:
        """The cases by task, fewer where the benchmark has fewer; those that differ in their noise
        alone stand together."""
        last = {task: self.start + count for task, count in self.counts.items() if count}
        return {
            task: [again for case in self._after(cases) for again in _varied(case, self.noises)]
            for task, cases in first_cases(benchmark, last).items()
        }

    @property
    def edits(self) -> int:
        """How many edits of each category, the first ones, a benchmark must have pictures for."""
        count = self.counts.get("edit", 0)
        return self.start + count if count else 0

    def _after(self, cases: Sequence[Case]) -> list[Case]:
        before = set(first_of_each(cases, self.start))
        return [case for index, case in enumerate(cases) if index not in before]


def _varied(case: Case, noises: int) -> Iterator[Case]:
    """The case, and others that differ from it in the seed of the noise alone."""
    yield case
    for number in range(1, noises):
        entropy = hashlib.sha256(f"{case.seed} {number}".encode()).digest()
        yield replace(case, seed=int.from_bytes(entropy[:4]))
