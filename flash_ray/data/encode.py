"""Encodes what a recipe's cases still lack: a Ray Data pipeline into a pool of encoder actors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from PIL import Image
from ray.data import ActorPoolStrategy

from flash_ray.cluster.environment import one_process, thread_limits
from flash_ray.data.buckets import fill
from flash_ray.data.cache import ConditionCache
from flash_ray.data.catalog import CPU, Index, case_of, index_key, quietly, read_rows, scan
from flash_ray.data.files import Found, find_files
from flash_ray.data.rows import BadRow, upright
from flash_ray.data.select import Shard, plan_shards, tasks_of
from flash_ray.errors import UserError
from flash_ray.miniature.source import training_case
from flash_ray.models.base import ConditionPair, Model
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.metrics import count_conditions

BATCH = 16  # cases of files that an encoder is given at once; of the miniature a shard


@dataclass(frozen=True)
class Prepared:
    """A recipe's encoded cases.

    Args:
        shards: all of them.
        encoded: how many shards were not in the cache.
        complaints: lines about rows of files that cannot be used.
    """

    shards: list[Shard]
    encoded: int
    complaints: list[str]


def prepare(recipe: Recipe, store: Store, also: Sequence[Recipe] = ()) -> Prepared:
    """Has every missing shard encoded and stored, by as many actors as the recipe has workers, in
    the workers' places, which are still free.

    Args:
        also: recipes of the same base and precision whose shards are encoded too.

    Raises:
        UserError: the base is missing, the source's files cannot be used, or they have not what
            the composition asks for.
    """
    listed = [(one, *list_cases(one, store)) for one in (recipe, *also)]
    work: dict[tuple, tuple[Recipe, str, dict[str, Shard]]] = {}
    for one, shards, _ in listed:
        for shard in shards:
            # What one pipeline can encode: cases of the same files, or all of the miniature's.
            files = (one.data.source, shard.task) if shard.case else ()
            _, _, wanted = work.setdefault((one.data.resolution, files), (one, shard.task, {}))
            wanted[shard.digest] = shard
    cache, encoded = ConditionCache.at(store), 0
    for one, task, wanted in work.values():
        if missing := cache.missing(list(wanted.values())):
            _encode(one, task, store, missing)
            encoded += len(missing)
        count_conditions("store", len(wanted) - len(missing), len(missing))
    complaints = [line for _, _, own in listed for line in own]
    return Prepared(listed[0][1], encoded, list(dict.fromkeys(complaints)))


def list_cases(recipe: Recipe, store: Store) -> tuple[list[Shard], list[str]]:
    """The recipe's shards, and lines about rows that cannot be used; files are read if they have
    changed since they were last listed in this store."""
    indices: dict[str, Index] = {}
    if recipe.data.source != "miniature":
        indices = {task: scan(recipe, task, store) for task in tasks_of(recipe)}
    complaints = [line for index in indices.values() for line in index.complaints()]
    return plan_shards(recipe, indices), complaints


def encode_shard(backbone: Model, shard: Shard, size: tuple[int, int]) -> ConditionPair:
    """Encodes the miniature's cases of a shard; `size` is the output's (height, width)."""
    cases = [training_case(shard.task, shard.category, index) for index in shard.drawn]
    references = None if shard.task == "t2i" else [list(case.references) for case in cases]
    return backbone.encode([case.prompt for case in cases], references, size)


class _Encoder:
    """An actor of the pool: the base with its encoders."""

    def __init__(self, recipe: Recipe, store: Store):
        device = one_process(recipe)
        self._backbone = load_model(recipe.base, dtype_of(recipe), device, encoders=True)
        self._cache, self._size = ConditionCache.at(store), recipe.data.resolution


class ShardEncoder(_Encoder):
    """Draws and encodes shards of the miniature."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        for shard in batch["shard"]:
            self._cache.add(shard.digest, encode_shard(self._backbone, shard, self._size))
        return {"digest": [shard.digest for shard in batch["shard"]]}


class CaseEncoder(_Encoder):
    """Encodes cases of files; those that share a layout together."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        groups: dict[tuple, list[tuple[Shard, str, list[Image.Image]]]] = {}
        rows = zip(batch["shard"], batch["prompt"], batch["pictures"], strict=True)
        for shard, prompt, pictures in rows:
            filled = [fill(upright(p), b) for p, b in zip(pictures, shard.buckets, strict=False)]
            groups.setdefault(shard.buckets, []).append((shard, prompt, filled))
        for buckets, group in groups.items():
            shards, prompts, references = zip(*group, strict=True)
            edits = list(references) if shards[0].task == "edit" else None
            encoded = self._backbone.encode(list(prompts), edits, buckets[0])
            for row, shard in enumerate(shards):
                self._cache.add(shard.digest, encoded.rows([row]).trimmed())
        return {"digest": [shard.digest for shard in batch["shard"]]}


def _encode(recipe: Recipe, task: str, store: Store, missing: Sequence[Shard]) -> None:
    """Runs the pipeline over missing shards; those of files are of one task.

    Raises:
        UserError: pictures were changed since their rows were listed; next time they are anew.
    """
    quietly()
    if recipe.data.source == "miniature":
        drawn = ray.data.from_items([{"shard": shard} for shard in missing])
        _run(recipe, store, drawn, ShardEncoder, 1, len(missing))
        return
    found = find_files(recipe.data.source, task, recipe.runtime.storage.endpoint)
    wanted = ray.put({shard.case: shard for shard in missing})
    rows = read_rows(found).flat_map(_picker(recipe, task, found, wanted), num_cpus=CPU)
    done = _run(recipe, store, rows, CaseEncoder, BATCH, len(missing))
    if lost := [shard for shard in missing if shard.digest not in done]:
        store.delete(index_key(found, recipe.data.source.columns, task))
        raise UserError(
            f"{found.field}: {len(lost)} cases are not what they were when the files were listed; "
            "allowed: pictures that stay; run the command again, it lists them anew"
        )


def _run(
    recipe: Recipe,
    store: Store,
    rows: ray.data.Dataset,
    encoder: type[_Encoder],
    batch: int,
    count: int,
) -> set[str]:
    """Sends rows, `count` of them or so, through a pool of encoders; digests of what is stored."""
    runtime = recipe.runtime
    encoded = rows.map_batches(
        encoder,
        fn_constructor_args=(recipe, store),
        compute=ActorPoolStrategy(
            min_size=1, max_size=min(runtime.max_workers, -(-count // batch))
        ),
        batch_size=batch,
        batch_format="numpy",
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"trainer": 1},
        runtime_env={"env_vars": thread_limits(recipe)},
    )
    return {row["digest"] for row in encoded.iter_rows()}


def _picker(
    recipe: Recipe, task: str, found: Found, wanted: ray.ObjectRef
) -> Callable[[Mapping[str, Any]], list[dict[str, Any]]]:
    """From a row to what the encoder needs, if its case is wanted."""
    columns = recipe.data.source.columns

    def pick(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            case = case_of(row, found, columns, task)
        except BadRow:  # counted when the files were listed
            return []
        shard = ray.get(wanted).get(case.digest)
        if shard is None:
            return []
        return [{"shard": shard, "prompt": case.prompt, "pictures": list(case.pictures)}]

    return pick
