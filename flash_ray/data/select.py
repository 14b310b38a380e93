"""Which of a source's cases a recipe uses, how many of each category, and in which shards."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

import numpy as np

from flash_ray.data.source import Catalog, DataSource, Entry, Shard, Size, case_buckets, load_source
from flash_ray.errors import UserError, unknown
from flash_ray.models.loading import encoder_digest, resolve_base
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Filter, Task

if TYPE_CHECKING:
    from flash_ray.storage.s3 import Store

PATIENCE = 50  # entries of an endless source for each that a filter must let through


def divide(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """Divides a total by weight, the largest remainders rounded up."""
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def category_counts(weights: Mapping[str, float], total: int, field: str) -> dict[str, int]:
    """Divide `total` cases by weight; every positive weight gets one or more.

    Raises:
        UserError: `total` is too small for that; `field` names the weights in the message.
    """
    counts = divide(total, weights)
    if empty := [name for name, weight in weights.items() if weight and not counts[name]]:
        raise UserError(
            f"data.num_cases: {total} cases leave none for {field}.{empty[0]}; allowed: enough for "
            f"every category of positive weight; raise data.num_cases or set {field}.{empty[0]}=0"
        )
    return counts


def epoch_counts(recipe: Recipe, task: Task) -> dict[str, int]:
    """How often each category of a task comes in one epoch of `data.num_cases` cases.

    Raises:
        UserError: `data.num_cases` is too small.
    """
    weights = getattr(recipe.data.composition, task)
    return category_counts(weights, recipe.data.num_cases, f"data.composition.{task}")


def unique_counts(recipe: Recipe, task: Task) -> dict[str, int]:
    """How many different cases of each category the recipe asks for.

    These are at most `data.max_per_category`.
    """
    counts = epoch_counts(recipe, task)
    return {
        name: min(count, recipe.data.max_per_category or count) for name, count in counts.items()
    }


def unique_cases(recipe: Recipe) -> dict[Task, int]:
    """How many different cases the recipe asks for, by task."""
    return {task: sum(unique_counts(recipe, task).values()) for task in tasks_of(recipe)}


def tasks_of(recipe: Recipe) -> list[Task]:
    """The tasks that a recipe has a share for."""
    shares: dict[Task, int] = {"t2i": recipe.tasks.t2i, "edit": recipe.tasks.edit}
    return [task for task, share in shares.items() if share]


def take(position: int, count: int, total: int, seed: int, stream: str) -> list[int]:
    """The case numbers at `position` to `position + count` of an endless stream over `total` cases.

    Every epoch holds each case once, in an order of its own that seed, stream and epoch decide: the
    composition is exact over an epoch, and the position is all there is to resume.
    """
    out: list[int] = []
    while len(out) < count:
        epoch, start = divmod(position + len(out), total)
        order = np.random.default_rng(_entropy(seed, stream, epoch)).permutation(total)
        out += order[start : start + count - len(out)].tolist()
    return out


def _entropy(*labels: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(labels).encode()).digest()[:16])


@dataclass(frozen=True)
class CasePlan:
    """The cases of a recipe.

    Args:
        source: where they come from.
        shards: they hold all cases, by task and category.
        complaints: lines about what the source has and cannot be used.
    """

    source: DataSource
    shards: list[Shard]
    complaints: list[str]


def plan_cases(recipe: Recipe, store: "Store") -> CasePlan:
    """Choose a recipe's cases and divide them into shards; nothing is encoded.

    Raises:
        UserError: the base is missing, or the source has not what `data` asks for.
    """
    source = load_source(recipe)
    catalogs = {task: source.catalog(task, store) for task in tasks_of(recipe)}
    shards = plan_shards(recipe, catalogs, source.shard_size)
    complaints = [line for catalog in catalogs.values() for line in catalog.complaints]
    return CasePlan(source, shards, complaints)


def validate_data(recipe: Recipe) -> None:
    """Check what can be known without reading more than the first rows of files.

    Raises:
        UserError: the base is missing, `data.num_cases` is too small, or the source has no cases.
    """
    resolve_base(recipe.base)
    source = load_source(recipe)
    source.validate_base(recipe.base)
    for task in tasks_of(recipe):
        unique_counts(recipe, task)
        source.validate(task)


def choose(recipe: Recipe, task: Task, catalog: Catalog, multiple: int) -> dict[str, list[Entry]]:
    """For each category the first cases that the filter lets pass, or those that
    `data.selection_seed` draws.

    There are as many as the recipe asks for, rounded up to a multiple of `multiple` where the
    category has that many: so recipes that ask for different numbers share their shards.

    Raises:
        UserError: the source lacks a category, or has too few cases that the filter lets pass.
    """
    chosen: dict[str, list[Entry]] = {}
    for category, count in unique_counts(recipe, task).items():
        if not count:
            continue
        field = f"data.composition.{task}.{category}"
        if category not in catalog.categories:
            raise UserError(unknown(field, category, catalog.categories, "category"))
        whole = -(-count // multiple) * multiple
        if catalog.count(category) is None:
            chosen[category] = _of_endless(recipe, task, category, catalog, whole)
        else:
            chosen[category] = _of_finite(recipe, task, category, catalog, count, whole)
        if len(chosen[category]) < count:
            raise UserError(_too_few(field, count, len(chosen[category]), recipe))
    return chosen


def _of_endless(
    recipe: Recipe, task: Task, category: str, catalog: Catalog, whole: int
) -> list[Entry]:
    """Successive cases that pass, from the first one or from where the selection begins."""
    seed = recipe.data.selection_seed
    if seed is None:
        entries = catalog.entries(category)
    else:
        entries = catalog.entries(category, _entropy(seed, task, category) % 2**32)
    tried = islice(entries, PATIENCE * whole)
    return list(islice((e for e in tried if passes(recipe.data.filter, e)), whole))


def _of_finite(
    recipe: Recipe, task: Task, category: str, catalog: Catalog, count: int, whole: int
) -> list[Entry]:
    """The first cases that pass, up to `whole`, or exactly `count` drawn from all that do."""
    fit = (e for e in catalog.entries(category) if passes(recipe.data.filter, e))
    seed = recipe.data.selection_seed
    if seed is None:
        return list(islice(fit, whole))
    every = list(fit)
    order = np.random.default_rng(_entropy(seed, task, category)).permutation(len(every))
    return [every[index] for index in sorted(order[:count])]


def passes(wanted: Filter, case: Entry) -> bool:
    """Whether every condition of the filter holds."""
    fewest, most = wanted.length or (0, case.length)
    return (
        fewest <= case.length <= most
        and (wanted.subsets is None or case.subset in wanted.subsets)
        and wanted.rendered_text in (None, case.rendered_text)
        and (
            wanted.min_score is None or (case.score is not None and case.score >= wanted.min_score)
        )
    )


def plan_shards(recipe: Recipe, catalogs: Mapping[Task, Catalog], shard_size: int) -> list[Shard]:
    """The shards that hold a recipe's cases, by task and category.

    Raises:
        UserError: the base is missing, or the source has not what `data` asks for.
    """
    encoder = [encoder_digest(recipe.base), recipe.training.precision]
    shards: list[Shard] = []
    for task, catalog in catalogs.items():
        counts = unique_counts(recipe, task)
        for category, entries in choose(recipe, task, catalog, shard_size).items():
            unused = counts[category]
            for buckets, chunk in _chunks(entries, recipe.data.resolution, shard_size):
                content = ["shard-5", *encoder, task, buckets, [entry.digest for entry in chunk]]
                rows = min(len(chunk), unused)
                if rows:
                    cases = tuple(entry.id for entry in chunk)
                    shards.append(Shard(_digest(content), task, category, cases, rows, buckets))
                unused -= rows
    return shards


def _chunks(
    entries: Sequence[Entry], resolution: Size, size: int
) -> Iterator[tuple[tuple[Size, ...], list[Entry]]]:
    """Successive cases that share their buckets, at most `size` of them at a time."""
    pairs = ((case_buckets(entry.sizes, resolution) or (resolution,), entry) for entry in entries)
    for buckets, run in groupby(pairs, key=lambda pair: pair[0]):
        alike = [entry for _, entry in run]
        for start in range(0, len(alike), size):
            yield buckets, alike[start : start + size]


def _too_few(field: str, count: int, available: int, recipe: Recipe) -> str:
    why = " that data.filter lets pass" if recipe.data.filter != Filter() else ""
    cure = (
        f"set data.max_per_category={available} (they come round more often), or lower "
        "data.num_cases"
    )
    return (
        f"{field}: {count} cases asked for, the source has {available}{why}; allowed: as many as "
        f"there are; {cure if available else 'take the category out, or loosen data.filter'}"
    )


def _digest(content: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
