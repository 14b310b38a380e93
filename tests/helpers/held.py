"""What a learner holds in tensors, for comparison with what is planned."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torchao.utils import TorchAOBaseTensor

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


def held_by_weights(transformer: nn.Module) -> float:
    """Bytes of a transformer's own weights, whatever adapters it has, with the scales of those that
    are quantized."""
    return _bytes(
        part
        for name, weight in transformer.named_parameters()
        if ".lora_" not in name
        for part in _parts(weight)
    )


def _parts(weight: Any) -> Iterator[Tensor]:
    """What a weight of torchao, of bitsandbytes or of torch is made of."""
    if isinstance(weight, TorchAOBaseTensor):
        names, _ = weight.__tensor_flatten__()
        yield from (getattr(weight, name) for name in names)
    else:
        yield weight.data
        if state := getattr(weight, "quant_state", None):
            yield from (state.absmax, state.code, state.state2.absmax, state.state2.code)


def _large(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Without the counts of steps."""
    return [tensor for tensor in tensors if tensor.numel() > 1]


def _bytes(tensors: Iterable[Tensor]) -> float:
    return float(sum(tensor.nbytes for tensor in tensors))
