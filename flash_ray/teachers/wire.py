"""Tensors as NumPy arrays, which cross Ray's object store without a copy; bf16 as uint16."""

from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

from flash_ray.backbones.base import Condition, Conditioned, Layout

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


def pack_conditioned(conditioned: Conditioned) -> dict[str, Any]:
    sides = {"positive": conditioned.positive, "negative": conditioned.negative}
    packed = {
        side: {name: pack(tensor) for name, tensor in condition.tensors().items()}
        for side, condition in sides.items()
    }
    return {"layout": conditioned.layout, **packed}


def unpack_conditioned(packed: dict[str, Any]) -> Conditioned:
    layout: Layout = packed["layout"]
    sides = [
        {name: unpack(value) for name, value in packed[side].items()}
        for side in ("positive", "negative")
    ]
    return Conditioned(*(Condition.from_tensors(layout, tensors) for tensors in sides))
