"""The micro-batches of a run, by number: which cases, of which task, and this worker's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_ray.data.cache import ConditionCache, ConditionSet, condition_sets
from flash_ray.data.select import epoch_counts, take, tasks_of
from flash_ray.data.source import Shard
from flash_ray.models.base import ConditionPair
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task


@dataclass(frozen=True)
class Mixture:
    """Any t2i + edit successive micro-batches hold exactly t2i and edit of them, evenly spread.

    A function of the micro-batch's number alone, so that number is all there is to resume.
    """

    t2i: int
    edit: int

    def task(self, n: int) -> Task:
        """The task of micro-batch n, counted from 0 over the whole run."""
        return "edit" if self._at(n)[0] else "t2i"

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


@dataclass(frozen=True)
class MicroBatch:
    """One worker's rows of micro-batch `number`; other workers and passes hold the rest, disjoint.

    Args:
        conditions: of this worker's rows.
        categories: of this worker's rows.
        all_categories: of the rows of all workers and passes together.
        size: rows of all workers and passes together.
        rows: this worker's among them.
        weight: of this part in a mean over all passes and workers; 0: other parts have these rows.
    """

    number: int
    task: Task
    conditions: ConditionPair
    categories: tuple[str, ...]
    all_categories: tuple[str, ...]
    size: int
    rows: slice
    weight: float

    def __len__(self) -> int:
        return len(self.conditions)


class Stream:
    """All passes of a run over its micro-batches, indexed from 0: there is no other state.

    A micro-batch is as large as the recipe's most workers make it. With fewer workers it takes
    `passes` passes, each of `micro_batch_size` rows per worker; what is left over repeats rows,
    with weight 0.

    A micro-batch has one layout. A task's layouts take turns in the ratio of their cases, so that
    every case is taken equally often over the long run.

    Every worker takes the same task at the same time, and a micro-batch has the same global rows
    whatever the number of workers is.
    """

    def __init__(
        self, recipe: Recipe, cache: ConditionCache, shards: Sequence[Shard], rank: int, world: int
    ):
        runtime, tasks = recipe.runtime, recipe.tasks
        self._mixture = Mixture(tasks.t2i, tasks.edit)
        self._seed, self._micro_batch_size = recipe.seed, runtime.micro_batch_size
        self._rank, self._world, self._max_workers = rank, world, runtime.max_workers
        self.passes = -(-self._max_workers // world)
        self.size = self._micro_batch_size * self._max_workers
        self._sets: dict[Task, list[ConditionSet]] = {}
        for task in tasks_of(recipe):
            of_task = [shard for shard in shards if shard.task == task]
            self._sets[task] = condition_sets(cache, of_task, epoch_counts(recipe, task))

    def __getitem__(self, turn: int) -> MicroBatch:
        number, part = divmod(turn, self.passes)
        worker = part * self._world + self._rank  # as if there were the most workers, and more
        start = worker % self._max_workers * self._micro_batch_size
        rows = slice(start, start + self._micro_batch_size)
        is_repeated = worker >= self._max_workers
        weight = 0.0 if is_repeated else self.passes * self._world / self._max_workers
        task = self._mixture.task(number)
        sets = self._sets[task]
        which, ordinal = interleave([len(cases) for cases in sets], self._mixture.ordinal(number))
        cases = sets[which]
        stream = task if which == 0 else f"{task} {which}"
        numbers = take(ordinal * self.size, self.size, len(cases), self._seed, stream)
        # One row is as long as it is, and no pass masks padding. Of more rows, workers pad alike.
        is_alone = self._micro_batch_size == 1
        conditions = cases.take(numbers[rows]) if is_alone else cases.take(numbers, rows)
        categories = cases.categories(numbers)
        own = categories[rows]
        return MicroBatch(number, task, conditions, own, categories, self.size, rows, weight)
