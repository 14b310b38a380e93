"""A group of teachers as a Ray actor, and how tensors travel to it: NumPy arrays, bf16 as uint16."""

from collections.abc import Sequence
from typing import Any

import ray
import torch
from numpy import ndarray
from ray.actor import ActorHandle
from torch import Tensor

from flash_ray.cluster.environment import one_process, thread_limits
from flash_ray.models.base import Condition, ConditionPair, Layout
from flash_ray.models.loading import dtype_of, load_model
from flash_ray.recipe import Recipe
from flash_ray.teachers.protocol import Group
from flash_ray.teachers.scorer import group_fingerprint, group_scorer
from flash_ray.telemetry.metrics import TeacherMetrics, timed

Packed = tuple[ndarray, bool]  # the array, and whether it is bf16


def pack(tensor: Tensor) -> Packed:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy(), True
    return tensor.numpy(), False


def unpack(packed: Packed) -> Tensor:
    """A copy: what the object store hands out is read-only."""
    array, is_bf16 = packed
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if is_bf16 else tensor


def pack_conditions(conditioned: ConditionPair) -> dict[str, Any]:
    sides = {"positive": conditioned.positive, "negative": conditioned.negative}
    packed = {
        side: {name: pack(tensor) for name, tensor in condition.tensors().items()}
        for side, condition in sides.items()
    }
    return {"layout": conditioned.layout, **packed}


def unpack_conditions(packed: dict[str, Any]) -> ConditionPair:
    layout: Layout = packed["layout"]
    sides = [
        {name: unpack(value) for name, value in packed[side].items()}
        for side in ("positive", "negative")
    ]
    return ConditionPair(*(Condition.from_tensors(layout, tensors) for tensors in sides))


class TeacherActor:
    """Loads a group's pipeline and answers questions; every answer carries its fingerprint.

    One question at a time, in the thread that loaded the model: torch keeps OpenMP threads for
    each thread that computes, and those of two get in each other's way.
    """

    def __init__(self, recipe: Recipe, group: Group):
        device = one_process(recipe)
        backbone = load_model(group.pipeline, dtype_of(recipe), device, encoders=False)
        self._fingerprint = group_fingerprint(recipe, group, backbone.transformer)
        self._scorer = group_scorer(recipe, group, backbone)
        self.metrics = TeacherMetrics([recipe.teachers[index].name for index in group.members])

    def fingerprint(self) -> str:
        return self._fingerprint

    @timed
    def prefill(
        self, request_id: tuple[int, int], conditioned: dict[str, Any], asked: Sequence[int]
    ) -> None:
        self._scorer.prefill(request_id, unpack_conditions(conditioned), asked)

    @timed
    def score(
        self, request_id: tuple[int, int], x: Packed, t: Packed, prefill: None
    ) -> tuple[str, dict[int, Packed]]:
        """(fingerprint, velocities by teacher). `prefill`: prefill's answer; if that failed, so
        does this."""
        velocities = self._scorer.score(request_id, unpack(x), unpack(t))
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
