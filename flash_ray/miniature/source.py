"""Training cases of the miniature world with exact captions, without the benchmark's scenes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from flash_ray.data.source import (
    Catalog,
    DataSource,
    Entry,
    LazyPictures,
    Shard,
    ShardCases,
    TrainingCase,
)
from flash_ray.miniature.benchmark import SIZE, draw_edit, draw_scene, input_image
from flash_ray.miniature.captions import caption, instruction
from flash_ray.miniature.plugin import validate_base
from flash_ray.miniature.scenes import CATEGORIES
from flash_ray.recipe.schema import Task

if TYPE_CHECKING:
    import ray.data

    from flash_ray.storage.s3 import Store

_SEED = 20_261_123  # of all cases; a recipe says which are taken, and its seed in what order


@dataclass(frozen=True)
class MiniatureSource(DataSource):
    """Cases that are drawn as they are needed: each category has cases without end."""

    categories: ClassVar[Mapping[Task, tuple[str, ...]]] = CATEGORIES
    shard_size: ClassVar[int] = 32

    def validate_base(self, base: str) -> None:
        """Raises UserError unless the base is a pipeline of the small world."""
        validate_base(base, "data.source")

    def catalog(self, task: Task, store: "Store") -> Catalog:
        """The task's cases by index; nothing is kept in the store."""
        return EndlessCatalog(task)

    def read(self, shards: Sequence[Shard]) -> "ray.data.Dataset":
        """Rows {"shard": ShardCases}; pictures are drawn by the encoder."""
        import ray.data

        return ray.data.from_items([{"shard": self.with_cases(shard)} for shard in shards])

    def prompts(self, shards: Sequence[Shard]) -> Iterator[str]:
        """The prompts of the shards' cases that are used."""
        for shard in shards:
            for case in shard.cases[: shard.rows]:
                yield training_case(shard.task, shard.category, int(case)).prompt

    def with_cases(self, shard: Shard) -> ShardCases:
        """A shard of this source with its cases."""
        cases = (training_case(shard.task, shard.category, int(case)) for case in shard.cases)
        return ShardCases(shard, tuple(cases))


@dataclass(frozen=True)
class EndlessCatalog:
    """The cases of a task; the index of each, from 0, is its id."""

    task: Task
    complaints: ClassVar[Sequence[str]] = ()

    @property
    def categories(self) -> Sequence[str]:
        """The task's categories, in the order of tables."""
        return CATEGORIES[self.task]

    def count(self, category: str) -> None:
        """None: there is always one more."""

    def entries(self, category: str, start: int = 0) -> Iterator[Entry]:
        """The category's cases by index, without end."""
        return (_entry(self.task, category, index) for index in count(start))


def training_case(task: Task, category: str, index: int) -> TrainingCase:
    """Case `index` of a category: always the same one."""
    rng = np.random.default_rng(
        [_SEED, list(CATEGORIES).index(task), CATEGORIES[task].index(category), index]
    )
    if task == "t2i":
        scene = draw_scene(category, rng)
        return TrainingCase(caption(scene, rng), rendered_text=category == "text")
    edit = draw_edit(category, rng)
    picture = LazyPictures([partial(input_image, edit)])
    return TrainingCase(instruction(edit, rng), picture, edit.source.category == "text")


@cache
def _entry(task: Task, category: str, index: int) -> Entry:
    """Drawn once in a process: the arms of a study ask for the same cases."""
    case = training_case(task, category, index)
    pixels = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in case.references]
    content = json.dumps([case.prompt, *pixels])
    return Entry(
        id=str(index),
        digest=hashlib.sha256(content.encode()).hexdigest()[:32],
        category=category,
        length=len(case.prompt),
        sizes=(SIZE,) * len(pixels),
        rendered_text=case.rendered_text,
    )
