"""Whether a recipe trains on its test: how many prompts of a benchmark are training prompts too."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from flash_ray.data.alike import ALIKE, alike, plain
from flash_ray.data.select import CasePlan
from flash_ray.evaluation.benchmark import TASK_TITLES, Benchmark, listed_cases
from flash_ray.recipe.schema import Task

SECONDS = 60.0  # of a task, after which what is left is not compared
BATCH = 2000  # training prompts that are compared at once


@dataclass(frozen=True)
class Overlap:
    """Which of a benchmark's prompts of one task a recipe trains on.

    Args:
        cases: of the benchmark, with prompts that are compared.
        exact: of those, how many are training prompts, but for case and whitespace.
        near: how many others are at least `ALIKE` percent alike to one.
        compared, prompts: training prompts that were compared, and all of them.
    """

    benchmark: str
    task: Task
    cases: int
    exact: int
    near: int
    compared: int
    prompts: int

    def __str__(self) -> str:
        of_all = "all" if self.compared >= self.prompts else f"{self.compared:,} of"
        pictures = ", whatever the pictures" if self.task == "edit" else ""
        return (
            f"{self.benchmark}, {TASK_TITLES[self.task]}: {self.exact:,} of {self.cases:,} prompts "
            f"are training prompts too, {self.near:,} more nearly ({ALIKE} % alike or more)"
            f"{pictures}; compared with {of_all} {self.prompts:,}"
        )


def find_overlap(benchmark: Benchmark, plan: CasePlan) -> list[Overlap]:
    """Compares a benchmark's prompts with those of a plan's cases, by task; not their pictures.

    Ray must run if the plan's source needs it.
    """
    return [
        _overlap(benchmark, task, plan)
        for task in benchmark.categories
        if any(shard.task == task for shard in plan.shards)
    ]


def _overlap(benchmark: Benchmark, task: Task, plan: CasePlan) -> Overlap:
    cases = [plain(case.prompt) for case in listed_cases(benchmark, task)]
    shards = [shard for shard in plan.shards if shard.task == task]
    exact, near, compared = set[str](), set[str](), 0
    for batch in _batches(plan.source.prompts(shards)):
        compared += len(batch)
        seen = {plain(prompt) for prompt in batch}
        exact |= seen.intersection(cases)
        near |= alike(sorted(set(cases) - exact - near), sorted(seen))
    total = sum(shard.rows for shard in shards)
    return Overlap(
        benchmark.name,
        task,
        len(cases),
        exact=sum(case in exact for case in cases),
        near=sum(case in near - exact for case in cases),
        compared=min(compared, total),
        prompts=total,
    )


def _batches(prompts: Iterable[str]) -> Iterator[list[str]]:
    """Prompts in batches, for `SECONDS`."""
    end, source = time.monotonic() + SECONDS, iter(prompts)
    while time.monotonic() < end and (batch := list(islice(source, BATCH))):
        yield batch
