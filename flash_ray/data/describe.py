"""What a run will see: how many cases of each category, and how often."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flash_ray.data.buckets import Size
from flash_ray.data.encode import list_cases
from flash_ray.data.select import Shard, epoch_counts, unique_counts
from flash_ray.data.stream import Mixture
from flash_ray.recipe import Recipe
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


def category_uses(recipe: Recipe) -> dict[str, dict[str, CategoryUse]]:
    """By task and category, of those that have a share.

    Raises:
        UserError: `data.num_cases` is too small for the composition.
    """
    runtime, tasks = recipe.runtime, recipe.tasks
    batches = recipe.training.iterations * runtime.gradient_accumulation_steps
    size = runtime.max_workers * runtime.micro_batch_size
    mixture = Mixture(tasks.t2i, tasks.edit)
    table: dict[str, dict[str, CategoryUse]] = {}
    for task, share in tasks.model_dump().items():
        if not share:
            continue
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

    task: str
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
        complaints: lines about rows of files that cannot be used.
    """

    uses: dict[str, dict[str, CategoryUse]]
    layouts: tuple[LayoutUse, ...]
    samples: int
    encoded: int
    cases: int
    bytes: int
    complaints: tuple[str, ...]

    @property
    def bytes_in_all(self) -> int | None:
        """Of all conditions, if those that are not encoded yet are like those that are."""
        return round(self.bytes * self.cases / self.encoded) if self.encoded else None


def describe(recipe: Recipe, store: Store) -> Description:
    """Reads the source's files, if it has any and they are not listed yet; encodes nothing.

    Raises:
        UserError: the source has not what the recipe asks for.
    """
    shards, complaints = list_cases(recipe, store)
    sizes = store.sizes("conditions/")
    stored = {key.split("/")[-1].removesuffix(".safetensors"): n for key, n in sizes.items()}
    runtime = recipe.runtime
    samples = recipe.training.iterations * runtime.gradient_accumulation_steps
    samples *= runtime.max_workers * runtime.micro_batch_size
    return Description(
        category_uses(recipe),
        tuple(_layouts(recipe, shards)),
        samples,
        sum(shard.rows for shard in shards if shard.digest in stored),
        sum(shard.rows for shard in shards),
        sum(_bytes(shard, stored) for shard in shards),
        tuple(complaints),
    )


def _layouts(recipe: Recipe, shards: Sequence[Shard]) -> Iterator[LayoutUse]:
    counts: Counter[tuple[str, tuple[Size, ...]]] = Counter()
    for shard in shards:
        edit, output = shard.task == "edit", shard.buckets[:1] or (recipe.data.resolution,)
        references = (shard.buckets or output) if edit else ()
        counts[shard.task, output + references] += shard.rows
    for (task, shapes), cases in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        yield LayoutUse(task, shapes[0], shapes[1:], cases)


def _bytes(shard: Shard, stored: Mapping[str, int]) -> int:
    """The part of a stored shard that the recipe uses."""
    return round(stored.get(shard.digest, 0) * shard.rows / max(len(shard.drawn), 1))
