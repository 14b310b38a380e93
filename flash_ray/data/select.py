"""Which of a source's cases a recipe uses, how many of each category, and in which shards they are encoded."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from flash_ray.data.buckets import Size, case_buckets
from flash_ray.data.catalog import Entry, Index
from flash_ray.errors import UserError, unknown
from flash_ray.miniature.source import TrainingCase, training_case
from flash_ray.models.loading import encoder_digest, resolve_base
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Filter


def category_counts(weights: Mapping[str, float], total: int, field: str) -> dict[str, int]:
    """Divides `total` cases by weight (largest remainder); every positive weight gets one or more.

    Raises:
        UserError: `total` is too small for that; `field` names the weights in the message.
    """
    whole = sum(weights.values())
    exact = {name: total * weight / whole for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, weight in weights.items() if weight and not counts[name]]:
        raise UserError(
            f"data.num_cases: {total} cases leave none for {field}.{empty[0]}; allowed: enough for "
            f"every category of positive weight; raise data.num_cases or set {field}.{empty[0]}=0"
        )
    return counts


def epoch_counts(recipe: Recipe, task: str) -> dict[str, int]:
    """How often each category of a task comes in one epoch of `data.num_cases` cases.

    Raises:
        UserError: `data.num_cases` is too small.
    """
    weights = getattr(recipe.data.composition, task)
    return category_counts(weights, recipe.data.num_cases, f"data.composition.{task}")


def unique_counts(recipe: Recipe, task: str) -> dict[str, int]:
    """How many different cases of each category the recipe asks for: `data.max_per_category` at most."""
    counts = epoch_counts(recipe, task)
    return {
        name: min(count, recipe.data.max_per_category or count) for name, count in counts.items()
    }


def unique_cases(recipe: Recipe) -> dict[str, int]:
    """How many different cases the recipe asks for, by task."""
    return {task: sum(unique_counts(recipe, task).values()) for task in tasks_of(recipe)}


def tasks_of(recipe: Recipe) -> list[str]:
    """The tasks that a recipe has a share for."""
    return [task for task, share in recipe.tasks.model_dump().items() if share]


def take(position: int, count: int, total: int, seed: int, task: str) -> list[int]:
    """Cases `position` to `position + count` of an endless stream over `total` cases.

    Every epoch holds each case once, in an order of its own that seed, task and epoch decide: the
    composition is exact over an epoch, and the position is all there is to resume.
    """
    out: list[int] = []
    while len(out) < count:
        epoch, start = divmod(position + len(out), total)
        order = np.random.default_rng(_entropy(seed, task, epoch)).permutation(total)
        out += order[start : start + count - len(out)].tolist()
    return out


def _entropy(*labels: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(labels).encode()).digest()[:16])


PATIENCE = 50  # drawn cases for each that a filter must let through


def choose_entries(recipe: Recipe, task: str, index: Index) -> dict[str, list[Entry]]:
    """The first cases of each category by digest: any order of rows and files gives the same.

    Raises:
        UserError: a category is not in the files, or has too few cases that the filter lets pass.
    """
    by_category: dict[str, list[Entry]] = {}
    for entry in index.entries:
        by_category.setdefault(entry.category, []).append(entry)
    chosen = {}
    for category, count in _asked(recipe, task):
        field = f"data.composition.{task}.{category}"
        if category not in by_category:
            raise UserError(unknown(field, category, sorted(by_category), "category"))
        fit = [e for e in by_category[category] if passes(recipe.data.filter, e)]
        if len(fit) < count:
            raise UserError(_too_few(field, count, len(fit), recipe))
        chosen[category] = sorted(fit, key=lambda entry: entry.digest)[:count]
    return chosen


def choose_drawn(recipe: Recipe, task: str, multiple: int) -> dict[str, list[int]]:
    """For each category the indices of the miniature's first cases that the filter lets pass; up to
    a multiple of `multiple`, where there are that many.

    Raises:
        UserError: it lets fewer pass than the recipe asks for.
    """
    wanted, chosen = recipe.data.filter, {}
    for category, count in _asked(recipe, task):
        whole = -(-count // multiple) * multiple
        if wanted == Filter():
            chosen[category] = list(range(whole))
            continue
        found = list(_drawn(wanted, task, category, whole))
        if len(found) < count:
            field = f"data.composition.{task}.{category}"
            raise UserError(_too_few(field, count, len(found), recipe))
        chosen[category] = found
    return chosen


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


def _asked(recipe: Recipe, task: str) -> Iterator[tuple[str, int]]:
    return ((name, count) for name, count in unique_counts(recipe, task).items() if count)


def _drawn(wanted: Filter, task: str, category: str, count: int) -> Iterator[int]:
    found = 0
    for index in range(PATIENCE * count):
        if found == count:
            return
        case = training_case(task, category, index)
        entry = Entry("", category, len(case.prompt), (), None, None, case.rendered_text)
        if passes(wanted, entry):
            found += 1
            yield index


def _too_few(field: str, count: int, found: int, recipe: Recipe) -> str:
    why = " that data.filter lets pass" if recipe.data.filter != Filter() else ""
    cure = (
        f"set data.max_per_category={found} (they come round more often), or lower data.num_cases"
    )
    return (
        f"{field}: {count} cases asked for, the source has {found}{why}; allowed: as many as there "
        f"are; {cure if found else 'take the category out, or loosen data.filter'}"
    )


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
    common = [encoder_digest(recipe.base), recipe.training.precision]
    tasks = tasks_of(recipe)
    if recipe.data.source == "miniature":
        return [shard for task in tasks for shard in _drawn_shards(recipe, task, common)]
    return [
        shard for task in tasks for shard in _listed_shards(recipe, task, indices[task], common)
    ]


def _drawn_shards(recipe: Recipe, task: str, common: list[str]) -> list[Shard]:
    shards, counts = [], unique_counts(recipe, task)
    for category, indices in choose_drawn(recipe, task, SHARD).items():
        for start in range(0, len(indices), SHARD):
            chunk = tuple(indices[start : start + SHARD])
            content = [
                "shard-2",
                *common,
                recipe.data.resolution,
                task,
                _content(task, category, chunk),
            ]
            rows = min(SHARD, counts[category] - start)
            shards.append(Shard(_digest(content), task, category, rows, chunk))
    return shards


def _listed_shards(recipe: Recipe, task: str, index: Index, common: list[str]) -> list[Shard]:
    shards, size = [], recipe.data.resolution
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


def validate_data(recipe: Recipe) -> None:
    """Raises UserError for what can be known without reading more than the files' first rows: too
    few cases, files that are not there, columns that they lack."""
    resolve_base(recipe.base)
    source = recipe.data.source
    for task in tasks_of(recipe):
        unique_counts(recipe, task)
        if source != "miniature":
            from flash_ray.data.files import find_files, validate_columns

            found = find_files(source, task, recipe.runtime.storage.endpoint)
            validate_columns(found, source.columns, task)
