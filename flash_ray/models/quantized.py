"""A frozen base in fewer bits, as diffusers' TorchAoConfig and BitsAndBytesConfig would make it.

The libraries are called here, and not through `from_pretrained`: diffusers makes no nf4 without a
GPU, and what a run tells its weights by has to be taken before they are rounded. The product is
ours for its backward pass: torchao's would keep every layer's unpacked weight until then, which is
the memory that was to be saved, and bitsandbytes unpacks wrongly on a CPU if the width is no
multiple of 64.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from flash_ray.models.base import Model

Format = Literal["fp8", "int8", "nf4"]
BLOCK = 64  # weights of nf4 that share a scale


def quantize(model: Model, form: Format, device: torch.device | str) -> None:
    """Moves a model that is on the CPU to a device, with the linear layers of the transformer's
    blocks in fewer bits, one after another: the device never has all of them whole.

    Call it before any LoRA is added. The activations' precision stays what it was.
    """
    pack = _PACK[form]
    for name in model.lora_targets:
        layer = model.transformer.get_submodule(name)
        assert isinstance(layer, nn.Linear), "as the family says"
        model.transformer.set_submodule(name, pack(layer.to(device)))
    model.to(device)


class QuantizedLinear(nn.Linear):
    """A linear layer with a frozen weight in fewer bits, unpacked anew for each pass.

    Args:
        layer: the one that it stands for.
        weight: quantized, a parameter.
    """

    def __init__(self, layer: nn.Linear, weight: Any) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = weight, layer.bias
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        y: Tensor = _Product.apply(x, self)
        return y

    def product(self, x: Tensor) -> Tensor:
        """x W^T + b, without gradients."""
        return functional.linear(x, self.unpacked(), self.bias)

    def unpacked(self) -> Tensor:
        """W in the activations' precision."""
        raise NotImplementedError


class TorchAoLinear(QuantizedLinear):
    """Its weight is one of torchao's tensors."""

    def product(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def unpacked(self) -> Tensor:
        weight: Any = self.weight
        whole: Tensor = weight.dequantize()
        return whole


class Nf4Linear(QuantizedLinear):
    """Its weight is bitsandbytes', quantized as rows of `BLOCK`."""

    def unpacked(self) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        weight: Any = self.weight
        whole: Tensor = dequantize_4bit(weight.data, weight.quant_state)
        return whole.view(self.out_features, self.in_features)


class _Product(torch.autograd.Function):
    """A quantized layer's product, with a gradient for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.unpacked(), None


def _fp8(layer: nn.Linear) -> QuantizedLinear:
    """float8 (e4m3) with a scale for each output."""
    from torchao.quantization import Float8WeightOnlyConfig

    return _by_torchao(layer, Float8WeightOnlyConfig())


def _int8(layer: nn.Linear) -> QuantizedLinear:
    """Whole numbers of 8 bits with a scale for each output."""
    from torchao.quantization import Int8WeightOnlyConfig

    return _by_torchao(layer, Int8WeightOnlyConfig(version=2))


def _by_torchao(layer: nn.Linear, config: Any) -> QuantizedLinear:
    from torchao.quantization import quantize_

    quantize_(layer, config)
    return TorchAoLinear(layer, layer.weight)


def _nf4(layer: nn.Linear) -> QuantizedLinear:
    """4-bit normal floats with a scale for 64 of them, itself in 8 bits (Dettmers et al., arXiv
    2305.14314)."""
    from bitsandbytes.nn import Params4bit

    weight = layer.weight.data
    rows = weight.reshape(-1, BLOCK)
    packed: Any = Params4bit(rows, requires_grad=False, blocksize=BLOCK, quant_type="nf4")
    return Nf4Linear(layer, packed.to(weight.device))


_PACK: Mapping[Format, Callable[[nn.Linear], QuantizedLinear]] = {
    "fp8": _fp8,
    "int8": _int8,
    "nf4": _nf4,
}
