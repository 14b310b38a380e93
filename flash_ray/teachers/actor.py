"""A group of teachers as a Ray actor, on a node that offers the resource `teacher`."""

from collections.abc import Sequence
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from flash_ray.backbones.load import load_backbone
from flash_ray.backbones.process import one_process, thread_limits
from flash_ray.recipe import Recipe
from flash_ray.teachers.groups import Group
from flash_ray.teachers.scorer import group_fingerprint, group_scorer
from flash_ray.teachers.wire import Packed, pack, unpack, unpack_conditioned
from flash_ray.telemetry.metrics import TeacherMetrics, timed


class TeacherActor:
    """Loads a group's pipeline and answers questions; every answer carries its fingerprint.

    One question at a time, in the thread that loaded the model: torch keeps OpenMP threads for
    each thread that computes, and those of two get in each other's way.
    """

    def __init__(self, recipe: Recipe, group: Group):
        device = one_process(recipe)
        dtype = torch.bfloat16 if recipe.optimisation.precision == "bf16" else torch.float32
        backbone = load_backbone(group.pipeline, dtype, device, encoders=False)
        self._fingerprint = group_fingerprint(recipe, group, backbone.transformer)
        self._scorer = group_scorer(recipe, group, backbone)
        self.metrics = TeacherMetrics([recipe.teachers[index].name for index in group.members])

    def fingerprint(self) -> str:
        return self._fingerprint

    @timed
    def prefill(
        self, ticket: tuple[int, int], conditioned: dict[str, Any], asked: Sequence[int]
    ) -> None:
        self._scorer.prefill(ticket, unpack_conditioned(conditioned), asked)

    @timed
    def score(
        self, ticket: tuple[int, int], x: Packed, t: Packed, prefilled: None
    ) -> tuple[str, dict[int, Packed]]:
        """(fingerprint, velocities by teacher). `prefilled`: prefill's answer; if that failed, so
        does this."""
        velocities = self._scorer.score(ticket, unpack(x), unpack(t))
        return self._fingerprint, {index: pack(v_BNC) for index, v_BNC in velocities.items()}


def start_teacher(recipe: Recipe, group: Group, max_restarts: int) -> ActorHandle:
    """Starts a teacher, without waiting for a place; `ray.kill` ends it."""
    runtime = recipe.runtime
    actor = ray.remote(TeacherActor).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"teacher": 1},
        max_restarts=max_restarts,
        runtime_env={"env_vars": thread_limits(recipe)},
    )
    return actor.remote(recipe, group)
