"""A group of teachers as a Ray actor; tensors travel to it as NumPy arrays, bf16 as uint16."""

from collections.abc import Sequence
from typing import TypedDict, cast

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
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from flash_ray.telemetry.metrics import TeacherMetrics, timed

Packed = tuple[ndarray, bool]  # the array, and whether it is bf16


class PackedConditions(TypedDict):
    """A `ConditionPair` as the object store takes it, by the names of `Condition.packed`."""

    layout: Layout
    positive: dict[str, Packed]
    negative: dict[str, Packed]


def pack(tensor: Tensor) -> Packed:
    """The tensor as an array that the object store takes without pickling it."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy(), True
    return tensor.numpy(), False


def unpack(packed: Packed) -> Tensor:
    """The tensor again, as a copy: what the object store hands out is read-only."""
    array, is_bf16 = packed
    tensor = torch.from_numpy(array.copy())
    return tensor.view(torch.bfloat16) if is_bf16 else tensor


def pack_conditions(conditions: ConditionPair) -> PackedConditions:
    """A pair of conditions, packed."""
    return {
        "layout": conditions.layout,
        "positive": _pack_tensors(conditions.positive),
        "negative": _pack_tensors(conditions.negative),
    }


def unpack_conditions(packed: PackedConditions) -> ConditionPair:
    """The pair again, as a copy."""
    layout = packed["layout"]
    return ConditionPair(
        _unpack_tensors(layout, packed["positive"]), _unpack_tensors(layout, packed["negative"])
    )


def _pack_tensors(condition: Condition) -> dict[str, Packed]:
    return {name: pack(tensor) for name, tensor in condition.packed().items()}


def _unpack_tensors(layout: Layout, tensors: dict[str, Packed]) -> Condition:
    return Condition.unpacked(layout, {name: unpack(value) for name, value in tensors.items()})


class TeacherActor:
    """Loads a group's pipeline and answers requests; every answer carries its fingerprint.

    It computes one request at a time, in the thread that loaded the model: torch keeps OpenMP
    threads for each thread that computes, and those of two get in each other's way.
    """

    def __init__(self, recipe: Recipe, group: Group):
        device = one_process(recipe)
        model = load_model(group.pipeline, dtype_of(recipe), device, encoders=False)
        self._fingerprint = group_fingerprint(recipe, group, fingerprint(model.transformer))
        self._scorer = group_scorer(recipe, group, model)
        self.metrics = TeacherMetrics([recipe.teachers[index].name for index in group.members])

    def fingerprint(self) -> str:
        """The fingerprint of the weights that this actor has loaded."""
        return self._fingerprint

    @timed
    def prefill(
        self,
        request_id: tuple[str, int],
        conditions: PackedConditions,
        teacher_ids: Sequence[int],
    ) -> None:
        """Computes keys and values ahead of the score; see `Teachers.prefill`."""
        self._scorer.prefill(request_id, unpack_conditions(conditions), teacher_ids)

    @timed
    def score(
        self, request_id: tuple[str, int], x: Packed, t: Packed, prefill: None
    ) -> tuple[str, dict[int, Packed]]:
        """Returns the fingerprint and the velocities by teacher; see `Teachers.score`.

        Args:
            prefill: the answer of `prefill`; if that failed, so does this.
        """
        velocities = self._scorer.score(request_id, unpack(x), unpack(t))
        return self._fingerprint, {index: pack(v_BNC) for index, v_BNC in velocities.items()}


def start_teacher(recipe: Recipe, group: Group, max_restarts: int) -> ActorHandle:
    """Starts a teacher, without waiting until a node takes it; `ray.kill` ends it."""
    runtime = recipe.runtime
    actor_class = ray.remote(TeacherActor).options(
        num_cpus=runtime.cpus_per_worker,
        num_gpus=1 if runtime.gpu else 0,
        resources={"teacher": 1},
        max_restarts=max_restarts,
        runtime_env={"env_vars": thread_limits(recipe)},
    )
    # Ray's annotation has the class, too, as what this may return.
    return cast(ActorHandle, actor_class.remote(recipe, group))
