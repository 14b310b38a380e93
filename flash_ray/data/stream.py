"""The micro-batches of a run, by number: which cases, of which task, and this worker's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from flash_ray.backbones.base import Conditioned
from flash_ray.data.cache import ConditionCache, ConditionSet, condition_sets
from flash_ray.data.composition import epoch_counts, take, tasks_of
from flash_ray.data.mixture import Mixture, interleave
from flash_ray.data.plan import Shard
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

    A micro-batch has one layout. A task's layouts take turns in the ratio of their cases, so that
    every case is taken equally often over the long run.

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
        self._sets: dict[str, list[ConditionSet]] = {}
        for task in tasks_of(recipe):
            own = [shard for shard in shards if shard.task == task]
            self._sets[task] = condition_sets(cache, own, epoch_counts(recipe, task))

    def __getitem__(self, number: int) -> MicroBatch:
        task = self._mixture.task(number)
        sets = self._sets[task]
        which, ordinal = interleave([len(own) for own in sets], self._mixture.ordinal(number))
        cases = sets[which]
        labels = task if which == 0 else f"{task} {which}"
        chosen = take(ordinal * self._size, self._size, len(cases), self._seed, labels)
        conditioned = cases.take(chosen, self._mine)
        categories = cases.categories(chosen[self._mine])
        return MicroBatch(number, task, conditioned, categories, self._size, self._mine)
