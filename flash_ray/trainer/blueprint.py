"""A trainable copy of a transformer that takes memory only when it is built, weight by weight."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Blueprint:
    """The structure of a transformer, and where each of its weights is.

    Args:
        source: what is copied; its weights must stay as they are until `build`. LoRAs that are
            added to it later do not matter.
        device: of the copy.
    """

    def __init__(self, source: nn.Module, device: torch.device) -> None:
        self._weights: dict[str, Tensor] = dict(source.named_parameters())
        empty: Any = {
            id(weight): nn.Parameter(torch.empty_like(weight, device="meta"))
            for weight in self._weights.values()
        }
        self._module, self._device = copy.deepcopy(source, empty), device

    @property
    def weights(self) -> int:
        """How many there are."""
        return sum(weight.numel() for weight in self._weights.values())

    def build(self, sharded_as: dict[str, Any] | None = None) -> nn.Module:
        """The copy, in training mode; once.

        Args:
            sharded_as: the DeepSpeed configuration under whose ZeRO 3 each weight is sharded as
                soon as it is copied; a collective then. None: every worker has the whole.
        """
        shard = _Sharding(sharded_as) if sharded_as else None
        module = self._module.train()
        for prefix, part in module.named_modules():
            for name, empty in part._parameters.items():
                if empty is None:  # a layer without bias
                    continue
                source = self._weights.pop(f"{prefix}.{name}" if prefix else name)
                weight = nn.Parameter(source.detach().to(self._device, copy=True))
                setattr(part, name, weight)
                if shard:
                    shard(weight)
        for _, buffer in module.named_buffers():
            buffer.data = buffer.data.to(self._device)
        return module


class _Sharding:
    """Leaves this rank's share of weights, one after the other; rank 0's values are taken.

    Args:
        config: DeepSpeed's.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._first: Any = None

    def __call__(self, weight: nn.Parameter) -> None:
        import deepspeed

        if self._first is None:
            holder = nn.Module()
            holder.weight = weight
            deepspeed.zero.Init(module=holder, dtype=weight.dtype, config_dict_or_path=self._config)
            self._first = weight
        else:
            self._first.convert_to_zero_parameters(param_list=[weight])
