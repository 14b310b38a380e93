"""The frozen base's blocks in fewer bits, by torchao and bitsandbytes as diffusers uses them."""

from collections.abc import Callable, Mapping

import torch
from torch import nn


def fp8(transformer: nn.Module, dtype: torch.dtype) -> None:
    """Linear layers of the blocks in float8, multiplied in the activations' precision."""
    from torchao.quantization import Float8WeightOnlyConfig, quantize_

    quantize_(transformer.transformer_blocks, Float8WeightOnlyConfig())


def nf4(transformer: nn.Module, dtype: torch.dtype) -> None:
    """Linear layers of the blocks in bitsandbytes' 4-bit normal floats."""
    import bitsandbytes

    for block in transformer.transformer_blocks:
        for name, part in list(block.named_modules()):
            if type(part) is nn.Linear:
                device = part.weight.device
                layer = bitsandbytes.nn.Linear4bit(
                    part.in_features,
                    part.out_features,
                    bias=False,
                    compute_dtype=dtype,
                    quant_type="nf4",
                    device="meta",
                )
                layer.weight = bitsandbytes.nn.Params4bit(
                    part.weight.data.cpu(), requires_grad=False, quant_type="nf4"
                )
                block.set_submodule(name, layer.to(device))


QUANTIZE: Mapping[str, Callable[[nn.Module, torch.dtype], None]] = {"fp8": fp8, "nf4": nf4}
