"""The micro-batches of a run, by number: which cases, of which task, and this worker's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_ray.backbones.base import Conditioned
from flash_ray.data.cache import ConditionCache, ConditionSet, Shard
from flash_ray.data.composition import take
from flash_ray.data.mixture import Mixture
from flash_ray.recipe import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """One worker's rows of micro-batch `number`; the other workers hold the rest, disjoint.

    Args:
        categories: of this worker's rows.
        size: rows of all workers together.
        mine: this worker's among them.
    """

    number: int
    task: str
    conditioned: Conditioned
    categories: tuple[str, ...]
    size: int
    mine: slice

    def __len__(self) -> int:
        return len(self.conditioned)


class Stream:
    """All micro-batches of a run, indexed from 0: there is no other state.

    Every worker takes the same task at the same time, and the same global rows whatever the
    number of workers is, as long as workers x micro_batch stays.
    """

    def __init__(
        self, recipe: Recipe, cache: ConditionCache, shards: Sequence[Shard], rank: int, world: int
    ):
        tasks = recipe.tasks
        self._mixture = Mixture(tasks.t2i, tasks.edit)
        self._seed, rows = recipe.seed, recipe.runtime.micro_batch
        self._size, self._mine = rows * world, slice(rank * rows, (rank + 1) * rows)
        by_task = {task: [s for s in shards if s.task == task] for task in ("t2i", "edit")}
        self.sets = {task: ConditionSet(cache, own) for task, own in by_task.items() if own}

    def __getitem__(self, number: int) -> MicroBatch:
        task = self._mixture.task(number)
        cases = self.sets[task]
        position = self._mixture.ordinal(number) * self._size
        chosen = take(position, self._size, len(cases), self._seed, task)
        conditioned = cases.take(chosen, self._mine)
        categories = cases.categories(chosen[self._mine])
        return MicroBatch(number, task, conditioned, categories, self._size, self._mine)
