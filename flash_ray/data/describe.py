"""What a run will see: how many cases of each category, and how often."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flash_ray.data.select import (
    epoch_counts,
    plan_cases,
    tasks_of,
    unique_counts,
)
from flash_ray.data.source import Shard, Size
from flash_ray.data.stream import Mixture
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store


@dataclass(frozen=True)
class CategoryUse:
    """One category in a run.

    Args:
        share: of all samples of both tasks, 0 to 1.
        samples: that the student draws for it; exact over whole epochs.
        unique: different cases.
    """

    share: float
    samples: float
    unique: int

    @property
    def passes(self) -> float:
        """How often each case is taken."""
        return self.samples / self.unique


def category_uses(recipe: Recipe) -> dict[Task, dict[str, CategoryUse]]:
    """What a run uses of each category that has a share, by task.

    Raises:
        UserError: `data.num_cases` is too small for the composition.
    """
    runtime, tasks = recipe.runtime, recipe.tasks
    batches = recipe.training.iterations * runtime.gradient_accumulation_steps
    size = runtime.max_workers * runtime.micro_batch_size
    mixture = Mixture(tasks.t2i, tasks.edit)
    table: dict[Task, dict[str, CategoryUse]] = {}
    for task in tasks_of(recipe):
        unique, part = unique_counts(recipe, task), mixture.count(task, batches) / batches
        table[task] = {
            name: CategoryUse(
                part * count / recipe.data.num_cases,
                part * batches * size * count / recipe.data.num_cases,
                unique[name],
            )
            for name, count in epoch_counts(recipe, task).items()
            if count
        }
    return table


@dataclass(frozen=True)
class LayoutUse:
    """Cases of one task whose pictures have the same shapes.

    Args:
        output, references: (height, width) in pixels.
        cases: different ones.
    """

    task: Task
    output: Size
    references: tuple[Size, ...]
    cases: int


@dataclass(frozen=True)
class Description:
    """What a run will see.

    Args:
        samples: of the student, of both tasks.
        encoded, cases: different cases whose conditions are in the store, and all of them.
        bytes: that those in the store take.
        complaints: lines about what the source has and cannot be used.
    """

    uses: dict[Task, dict[str, CategoryUse]]
    layouts: tuple[LayoutUse, ...]
    samples: int
    encoded: int
    cases: int
    bytes: int
    complaints: tuple[str, ...]

    @property
    def bytes_in_all(self) -> int | None:
        """Bytes of all conditions, if those yet to be encoded are like those that are."""
        return round(self.bytes * self.cases / self.encoded) if self.encoded else None


def describe(recipe: Recipe, store: Store) -> Description:
    """What a run of the recipe will see; nothing is encoded.

    Ray must run if the source needs it (`load_source(recipe).needs_ray`).

    Raises:
        UserError: the source has not what the recipe asks for.
    """
    plan = plan_cases(recipe, store)
    shards = plan.shards
    sizes = store.sizes("conditions/")
    stored = {key.split("/")[-1].removesuffix(".safetensors"): n for key, n in sizes.items()}
    runtime = recipe.runtime
    samples = recipe.training.iterations * runtime.gradient_accumulation_steps
    samples *= runtime.max_workers * runtime.micro_batch_size
    return Description(
        category_uses(recipe),
        tuple(_layouts(shards)),
        samples,
        sum(shard.rows for shard in shards if shard.digest in stored),
        sum(shard.rows for shard in shards),
        sum(_bytes(shard, stored) for shard in shards),
        tuple(plan.complaints),
    )


def _layouts(shards: Sequence[Shard]) -> Iterator[LayoutUse]:
    counts: Counter[tuple[Task, tuple[Size, ...]]] = Counter()
    for shard in shards:
        counts[shard.task, shard.buckets] += shard.rows
    for (task, buckets), cases in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        yield LayoutUse(task, buckets[0], buckets if task == "edit" else (), cases)


def _bytes(shard: Shard, stored: Mapping[str, int]) -> int:
    """The part of a stored shard that the recipe uses."""
    return round(stored.get(shard.digest, 0) * shard.rows / len(shard.cases))
