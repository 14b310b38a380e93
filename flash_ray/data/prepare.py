"""Encodes what a recipe's cases still lack, on the cluster, before training starts."""

from collections.abc import Sequence

import ray
import torch

from flash_ray.backbones.load import load_backbone
from flash_ray.backbones.process import one_process, thread_limits
from flash_ray.checkpoints.storage import Store
from flash_ray.data.cache import ConditionCache, Shard, encode_shard, plan_shards
from flash_ray.recipe import Recipe


class Encoder:
    """Holds the base with its encoders and turns shards into cached conditions."""

    def __init__(self, recipe: Recipe, store: Store):
        device = one_process(recipe)
        dtype = torch.bfloat16 if recipe.optimisation.precision == "bf16" else torch.float32
        self._backbone = load_backbone(recipe.base, dtype, device, encoders=True)
        self._cache, self._size = ConditionCache.at(store), recipe.data.size

    def encode(self, shards: Sequence[Shard]) -> int:
        for shard in shards:
            conditioned = encode_shard(self._backbone, shard, self._size)
            self._cache.add(shard.digest, conditioned)
        return len(shards)


def prepare(recipe: Recipe, store: Store, also: Sequence[Recipe] = ()) -> list[Shard]:
    """Has every missing shard encoded and stored; returns all shards of the recipe.

    As many actors as the recipe has workers, in the workers' places, which are still free.

    Args:
        also: recipes of the same base and precision whose shards are encoded too.

    Raises:
        UserError: the base is missing, or `data.prompts` is too small for the composition.
    """
    shards = plan_shards(recipe)
    wanted = {s.digest: s for one in (recipe, *also) for s in plan_shards(one)}
    missing = ConditionCache.at(store).missing(list(wanted.values()))
    if not missing:
        return shards
    encoders = _start(recipe, store, min(recipe.runtime.workers, -(-len(missing) // 8)))
    try:
        parts = [missing[i :: len(encoders)] for i in range(len(encoders))]
        ray.get([e.encode.remote(part) for e, part in zip(encoders, parts, strict=True)])
    finally:
        for encoder in encoders:
            ray.kill(encoder)
    return shards


def _start(recipe: Recipe, store: Store, count: int) -> list[ray.actor.ActorHandle]:
    runtime = recipe.runtime
    actor = ray.remote(Encoder).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"trainer": 1},
        max_restarts=runtime.max_failures,
        max_task_retries=runtime.max_failures,
        runtime_env={"env_vars": thread_limits(recipe)},
    )
    return [actor.remote(recipe, store) for _ in range(count)]
