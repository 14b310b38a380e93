"""Which shards of encoded cases a recipe needs: each by the digest of all that decides it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from flash_ray.backbones.load import encoder_digest
from flash_ray.data.buckets import Size, case_buckets
from flash_ray.data.choose import choose_drawn, choose_entries
from flash_ray.data.composition import tasks_of, unique_counts
from flash_ray.data.index import Index
from flash_ray.data.miniature_source import TrainingCase, training_case
from flash_ray.recipe import Recipe

SHARD = 32  # cases of the miniature; of files each case is a shard of its own


@dataclass(frozen=True)
class Shard:
    """Cases of one category that are encoded together.

    Args:
        rows: how many of them the recipe uses, the first ones.
        drawn: indices of cases of the miniature.
        case: digest of a case in files.
        buckets: (height, width) that this case's pictures are brought to; the first is the
            output's. Of text to image the output's alone.
    """

    digest: str
    task: str
    category: str
    rows: int = 1
    drawn: tuple[int, ...] = ()
    case: str = ""
    buckets: tuple[Size, ...] = ()


def plan_shards(recipe: Recipe, indices: Mapping[str, Index]) -> list[Shard]:
    """The shards that hold a recipe's cases, by task and category.

    Args:
        indices: of the source's files, by task; the miniature has none.

    Raises:
        UserError: the base is missing, or the source has not what `data` asks for.
    """
    common = [encoder_digest(recipe.base), recipe.optimisation.precision]
    tasks = tasks_of(recipe)
    if recipe.data.source == "miniature":
        return [shard for task in tasks for shard in _drawn(recipe, task, common)]
    return [shard for task in tasks for shard in _listed(recipe, task, indices[task], common)]


def _drawn(recipe: Recipe, task: str, common: list[str]) -> list[Shard]:
    shards, counts = [], unique_counts(recipe, task)
    for category, indices in choose_drawn(recipe, task, SHARD).items():
        for start in range(0, len(indices), SHARD):
            chunk = tuple(indices[start : start + SHARD])
            content = ["shard-2", *common, recipe.data.size, task, _content(task, category, chunk)]
            rows = min(SHARD, counts[category] - start)
            shards.append(Shard(_digest(content), task, category, rows, chunk))
    return shards


def _listed(recipe: Recipe, task: str, index: Index, common: list[str]) -> list[Shard]:
    shards, size = [], recipe.data.size
    for category, entries in choose_entries(recipe, task, index).items():
        for entry in entries:
            buckets = case_buckets(entry.sizes, size) or (size,)
            content = ["case-1", *common, buckets, task, entry.digest]
            shards.append(
                Shard(_digest(content), task, category, case=entry.digest, buckets=buckets)
            )
    return shards


@cache
def _content(task: str, category: str, indices: tuple[int, ...]) -> list[list[str]]:
    """What tells a shard's cases from others; the arms of a study ask for the same ones."""
    return [_address(training_case(task, category, index)) for index in indices]


def _address(case: TrainingCase) -> list[str]:
    pixels = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in case.references]
    return [case.prompt, *pixels]


def _digest(content: list[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
