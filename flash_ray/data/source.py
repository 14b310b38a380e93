"""What a source of training cases is: its protocol, its records, the shapes of its pictures.

Files are a source (`data/files.py`), and what packages register under `flash_ray.sources`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, ClassVar, Protocol, overload

from PIL import Image, ImageOps

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Files, Task
from flash_ray.recipe.sizes import MAX_ASPECT, Size, follow_aspect

if TYPE_CHECKING:
    import ray.data

    from flash_ray.storage.s3 import Store

# width:height, up to what `recipe.sizes` allows
WIDE = ((4, 3), (3, 2), (16, 9), (2, 1), (5, 2), (3, 1), (4, 1), (6, 1), (MAX_ASPECT, 1))
RATIOS = ((1, 1), *(ratio for w, h in WIDE for ratio in ((w, h), (h, w))))
READ_CPUS = 0.25  # of a core for each reading task: it must fit beside teachers and encoders


@dataclass(frozen=True)
class TrainingCase:
    """A prompt (T2I), or an instruction with its reference pictures (edit).

    Args:
        references: the pictures to edit, opened or drawn when they are indexed; none for T2I.
        rendered_text: whether the picture that is asked for contains a word.
    """

    prompt: str
    references: Sequence[Image.Image] = ()
    rendered_text: bool = False


class LazyPictures(Sequence[Image.Image]):
    """Pictures that are opened or drawn whenever they are looked at."""

    def __init__(self, openers: Sequence[Callable[[], Image.Image]]):
        self._openers = openers

    def __len__(self) -> int:
        return len(self._openers)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(index, slice):
            return LazyPictures(self._openers[index])
        return self._openers[index]()


@dataclass(frozen=True)
class Entry:
    """What choosing a case needs to know of it.

    Args:
        id: by it the source finds the case.
        digest: changes with anything that the model is shown of the case.
        length: characters of the prompt.
        sizes: (height, width) in pixels of each reference picture, upright; none for T2I.
        subset, score: what filters ask for; None where the source does not say.
    """

    id: str
    digest: str
    category: str
    length: int
    sizes: tuple[Size, ...] = ()
    subset: str | None = None
    score: float | None = None
    rendered_text: bool = False


@dataclass(frozen=True)
class Shard:
    """Cases of one category and one layout that are encoded together and kept in one file.

    Args:
        digest: changes with anything that decides the encoded conditions.
        cases: ids of the cases.
        rows: how many of them the recipe uses, the first ones.
        buckets: (height, width) in pixels that the pictures are brought to; the first is the
            output's. For text to image the output's alone.
    """

    digest: str
    task: Task
    category: str
    cases: tuple[str, ...]
    rows: int
    buckets: tuple[Size, ...]


@dataclass(frozen=True)
class ShardCases:
    """A shard with what is encoded: its cases, in its order."""

    shard: Shard
    cases: tuple[TrainingCase, ...]


class Catalog(Protocol):
    """What is known of a task's cases before any is encoded."""

    @property
    def categories(self) -> Sequence[str]:
        """The categories that there are cases of."""
        ...

    @property
    def complaints(self) -> Sequence[str]:
        """Lines about what cannot be used."""
        ...

    def count(self, category: str) -> int | None:
        """How many cases the category has; None: without end."""
        ...

    def entries(self, category: str, start: int = 0) -> Iterable[Entry]:
        """The category's cases, always in the same order; recipes take the first that pass.

        Args:
            start: how many are left out at first, only of a category without end: up to 2**32, as
                `data.selection_seed` has it.
        """
        ...


class DataSource(Protocol):
    """Training cases by task and category. Sources that are equal are read together.

    A plug-in registers a class, which is called without arguments. It has a class attribute
    `categories`, a mapping from task to the names of its categories, by which recipes are checked.

    Attributes:
        shard_size: how many cases are encoded together, 1 or more.
        needs_ray: whether `catalog` or `prompts` starts Ray tasks.
    """

    shard_size: ClassVar[int] = 1
    needs_ray: ClassVar[bool] = False

    def validate(self, task: Task) -> None:
        """Check what can be known of a task's cases in a moment.

        Raises:
            UserError: they cannot be had.
        """

    def validate_base(self, base: str) -> None:
        """Check that the cases are for that base, a recipe's; most are for any.

        Raises:
            UserError: they are not.
        """
        return None

    def catalog(self, task: Task, store: "Store") -> Catalog:
        """The task's cases. What is costly to find out is kept in the store.

        Raises:
            UserError: they cannot be had, or too many of them cannot be used.
        """
        ...

    def read(self, shards: Sequence[Shard]) -> "ray.data.Dataset":
        """Rows {"shard": ShardCases}, one for each shard whose cases are as they were when they
        were listed, in any order; what is drawn or decoded waits for the encoder."""
        ...

    def prompts(self, shards: Sequence[Shard]) -> Iterator[str]:
        """The prompts of the cases that the recipe uses of the shards, in any order."""
        ...

    def forget(self, task: Task, store: "Store") -> None:
        """Remove from the store what `catalog` keeps there: the task's cases have changed."""


def load_source(recipe: Recipe) -> DataSource:
    """The source that `data.source` names: files, or what a package registers.

    Raises:
        UserError: it names none, or one that no installed package registers.
    """
    source = recipe.data.source
    if source is None:
        raise UserError(
            f"data.source: none in recipe {recipe.name}; allowed: {{t2i: FILE, edit: FILE}}, or "
            f"{', '.join(plugins.names(plugins.SOURCES))}; name your data, and its categories in "
            "data.composition"
        )
    if isinstance(source, Files):
        from flash_ray.data.files import FileSource

        return FileSource(source, recipe.runtime.storage.endpoint)
    registered: DataSource = plugins.load(plugins.SOURCES, source, "data.source")()
    return registered


def buckets(area: Size) -> tuple[Size, ...]:
    """The shapes of about the area of `area`, sides multiples of 32; the first one is square."""
    return tuple(dict.fromkeys(follow_aspect((h, w), area) for w, h in RATIOS))


def bucket_of(size: Size, area: Size) -> Size:
    """The bucket whose aspect ratio is nearest to that of `size`, on a logarithmic scale."""
    ratio = log(size[1] / size[0])
    return min(buckets(area), key=lambda shape: abs(log(shape[1] / shape[0]) - ratio))


def case_buckets(sizes: Sequence[Size], area: Size) -> tuple[Size, ...]:
    """The bucket of each of a case's pictures; the output has that of the first."""
    return tuple(bucket_of(size, area) for size in sizes)


def fill(picture: Image.Image, bucket: Size) -> Image.Image:
    """The middle of the picture, scaled to cover the bucket: nothing is stretched."""
    return ImageOps.fit(picture, (bucket[1], bucket[0]), Image.Resampling.LANCZOS)
