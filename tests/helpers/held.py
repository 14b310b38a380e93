"""What a learner holds in tensors, for comparison with what is planned."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from flash_ray.capacity.device import Held


def held_by_engine(engine: Any, ema: Any = None) -> Held:
    """Bytes of a DeepSpeed engine of ZeRO 1 or 2 after a step and a backward pass."""
    optimizer = engine.optimizer
    fp32 = optimizer.single_partition_of_fp32_groups
    moments = [m for weight in fp32 for m in optimizer.optimizer.state[weight].values()]
    gradients = [g for group in optimizer.averaged_gradients.values() for g in group or ()]
    return Held(
        _bytes(engine.module.parameters()),
        _bytes(gradients),
        _bytes([*fp32, *_large(moments)]),
        _bytes(ema._shares.values()) if ema else 0.0,
    )


def held_by_adapter(learner: Any, ema: Any = None) -> Held:
    """Bytes of an adapter's learner after its first step, the adapter for its average included."""
    weights = _bytes(learner._weights)
    moments = learner._optimizer.state[learner.master].values()
    return Held(
        weights,
        _bytes([learner.master.grad]),
        _bytes([learner.master, *_large(moments)]),
        _bytes([ema.average]) + weights if ema else 0.0,
    )


def _large(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Without the counts of steps."""
    return [tensor for tensor in tensors if tensor.numel() > 1]


def _bytes(tensors: Iterable[Tensor]) -> float:
    return float(sum(tensor.nbytes for tensor in tensors))
