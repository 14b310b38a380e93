"""Encodes what a recipe's cases still lack: a Ray Data pipeline into a pool of encoder actors."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ray.data import ActorPoolStrategy
from ray.exceptions import RayActorError
from ray.util.annotations import RayDeprecationWarning

from flash_ray.cluster.environment import one_process, thread_limits
from flash_ray.data.cache import ConditionCache
from flash_ray.data.catalog import quiet_ray_data
from flash_ray.data.select import (
    plan_cases,
)
from flash_ray.data.source import DataSource, Shard, ShardCases, Size, fill
from flash_ray.errors import UserError
from flash_ray.models.base import ConditionPair, Model
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.metrics import count_conditions

BATCH = 16  # cases that an encoder is given at once, or a shard of more


@dataclass(frozen=True)
class Prepared:
    """A recipe's encoded cases.

    Args:
        shards: all of them.
        encoded: how many shards were not in the cache.
        complaints: lines about what the source has and cannot be used.
    """

    shards: list[Shard]
    encoded: int
    complaints: list[str]


def prepare(
    recipe: Recipe,
    store: Store,
    also: Sequence[Recipe] = (),
    say: Callable[[str], None] | None = None,
) -> Prepared:
    """Have every missing shard encoded and stored.

    As many actors work as the recipe has workers, on the workers' resources, which are still free.

    Args:
        also: recipes of the same base and precision whose shards are encoded too.
        say: takes a line about each damaged shard; None logs it.

    Raises:
        UserError: the base is missing, the source cannot be used, or it has not what the
            composition asks for.
    """
    plans = [plan_cases(each, store) for each in (recipe, *also)]
    wanted: dict[DataSource, dict[str, Shard]] = {}
    for plan in plans:
        wanted.setdefault(plan.source, {}).update({shard.digest: shard for shard in plan.shards})
    cache, encoded = ConditionCache.at(store, say), 0
    for source, shards in wanted.items():
        if missing := cache.missing(list(shards.values())):
            _encode_all(recipe, source, cache, missing)
            encoded += len(missing)
        count_conditions("store", len(shards) - len(missing), len(missing))
    complaints = [line for plan in plans for line in plan.complaints]
    return Prepared(plans[0].shards, encoded, list(dict.fromkeys(complaints)))


def encode_shards(model: Model, batch: Sequence[ShardCases]) -> dict[str, ConditionPair]:
    """Encode the cases of shards, those that share a layout together; conditions by digest."""
    groups: dict[tuple[Task, tuple[Size, ...]], list[ShardCases]] = {}
    for item in batch:
        groups.setdefault((item.shard.task, item.shard.buckets), []).append(item)
    encoded: dict[str, ConditionPair] = {}
    for (task, buckets), group in groups.items():
        cases = [case for item in group for case in item.cases]
        references = [
            [fill(picture, bucket) for picture, bucket in zip(c.references, buckets, strict=False)]
            for c in cases
        ]
        prompts = [case.prompt for case in cases]
        conditions = model.encode(prompts, references if task == "edit" else None, buckets[0])
        start = 0
        for item in group:
            rows = range(start, start + len(item.cases))
            encoded[item.shard.digest] = conditions.rows(rows).trimmed()
            start = rows.stop
    return encoded


class Encoder:
    """An actor of the pool: the base without its transformer, which encodes nothing."""

    def __init__(self, recipe: Recipe, store: Store):
        device = one_process(recipe)
        self._model = load_model(
            recipe.base, dtype_of(recipe), device, encoders=True, transformer=False
        )
        self._cache = ConditionCache.at(store)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Encode and store the shards in a column of ShardCases; their digests."""
        encoded = encode_shards(self._model, batch["shard"].tolist())
        for digest, conditions in encoded.items():
            self._cache.add(digest, conditions)
        return {"digest": list(encoded)}


def _encode_all(
    recipe: Recipe, source: DataSource, cache: ConditionCache, missing: Sequence[Shard]
) -> None:
    """Run the pipeline, and again for what is left after an encoder died, as often as the recipe
    lets a run fail."""
    for failures_left in range(recipe.runtime.max_failures, -1, -1):
        try:
            return _encode(recipe, source, cache.store, missing)
        except RayActorError:
            if not failures_left:
                raise
            missing = cache.missing(missing)
            if not missing:
                return None


def _never_restarted() -> dict[str, int]:
    """Options of encoders: a dead one stays so, and `_encode_all` tries again.

    Of one that may restart Ray's core prints an error: that its arguments might be lost by then.
    """
    return {"max_restarts": 0}


def _encode(recipe: Recipe, source: DataSource, store: Store, missing: Sequence[Shard]) -> None:
    """Run the pipeline over missing shards of a source.

    Raises:
        UserError: cases have changed since they were listed; next time they are listed anew.
    """
    quiet_ray_data()
    runtime, batch = recipe.runtime, max(1, BATCH // source.shard_size)
    with warnings.catch_warnings():
        # Ray has no other way yet to say how often an actor may be restarted.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        encoded = source.read(missing).map_batches(
            Encoder,
            fn_constructor_args=(recipe, store),
            compute=ActorPoolStrategy(
                min_size=1, max_size=min(runtime.max_workers, -(-len(missing) // batch))
            ),
            batch_size=batch,
            batch_format="numpy",
            num_cpus=runtime.cpus_per_worker,
            num_gpus=1 if runtime.gpu else 0,
            resources={"trainer": 1},
            runtime_env={"env_vars": thread_limits(recipe)},
            ray_remote_args_fn=_never_restarted,
        )
    stored = {row["digest"] for row in encoded.iter_rows()}
    if lost := [shard for shard in missing if shard.digest not in stored]:
        for task in {shard.task for shard in lost}:
            source.forget(task, store)
        raise UserError(
            f"data.source.{lost[0].task}: {len(lost)} cases are not what they were when they were "
            "listed; allowed: pictures that stay; run the command again, it lists them anew"
        )
