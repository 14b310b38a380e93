"""A teacher as a Ray actor, on a node that offers the resource `teacher`."""

from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from flash_ray.backbones.load import load_backbone
from flash_ray.backbones.process import one_process, thread_limits
from flash_ray.recipe import Recipe
from flash_ray.teachers.scorer import Scorer, fingerprint
from flash_ray.teachers.wire import Packed, pack, unpack, unpack_conditioned


class TeacherActor:
    """Loads the recipe's base and answers questions; every answer carries its fingerprint."""

    def __init__(self, recipe: Recipe):
        device = one_process(recipe)
        dtype = torch.bfloat16 if recipe.optimisation.precision == "bf16" else torch.float32
        backbone = load_backbone(recipe.base, dtype, device, encoders=False)
        self._scorer = Scorer(backbone, *recipe.guidance_of(recipe.teachers[0]))
        self._fingerprint = fingerprint(backbone.transformer)

    def fingerprint(self) -> str:
        return self._fingerprint

    def prefill(self, ticket: tuple[int, int], conditioned: dict[str, Any]) -> None:
        self._scorer.prefill(ticket, unpack_conditioned(conditioned))

    def score(
        self, ticket: tuple[int, int], x: Packed, t: Packed, prefilled: None
    ) -> tuple[str, Packed]:
        """(fingerprint, velocity). `prefilled`: prefill's answer; if that failed, so does this."""
        return self._fingerprint, pack(self._scorer.score(ticket, unpack(x), unpack(t)))


def start_teachers(recipe: Recipe) -> list[ActorHandle]:
    """Starts the recipe's replicas, without waiting for them; `ray.kill` ends them."""
    runtime = recipe.runtime
    actor = ray.remote(TeacherActor).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"teacher": 1},
        max_restarts=runtime.max_failures,
        runtime_env={"env_vars": thread_limits(recipe)},
    )
    return [actor.remote(recipe) for _ in range(recipe.teaching.replicas)]
