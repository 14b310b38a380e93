"""LoRAs that share one frozen transformer: a student, a fake score, an average, teachers.

PEFT keeps several adapters in a module and has one of them active. Whichever it activates becomes
trainable and all others stop being so: a student's forward, another adapter's forward and then the
student's backward give the student no gradient, and nothing fails. Here an adapter is trainable
because it was added so, whether or not it is the active one.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from diffusers.loaders.peft import PeftAdapterMixin
    from diffusers.models.modeling_utils import ModelMixin

    class Transformer(ModelMixin, PeftAdapterMixin):
        """A transformer of diffusers, all of which take adapters."""


class Adapters:
    """The adapters of one transformer, which is frozen; at most one is active, at first none.

    Nobody else may activate adapters of that transformer.

    Args:
        transformer: adapters that it has already are known by their names, and frozen.
    """

    def __init__(self, transformer: "Transformer") -> None:
        self.transformer = transformer
        self._trainable: dict[str, bool] = {}
        self._active: str | None = None
        self._layers: list[LoraLayer] = []
        transformer.requires_grad_(False)
        self.adopt()

    @property
    def active(self) -> str | None:
        """The name of the active adapter; None: the plain base."""
        return self._active

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in the order in which they came."""
        return tuple(self._trainable)

    def add(
        self,
        name: str,
        rank: int,
        alpha: int,
        targets: Sequence[str],
        trainable: bool = True,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Adds an adapter that changes nothing yet: B is zero, A is drawn as PEFT draws it.

        Args:
            alpha: the adapter's scale is alpha / rank.
            targets: names, or ends of names, of the linear layers that it changes.
            trainable: whether its weights take gradients.
            seed: of A; the same numbers on every device.
            dtype: of its weights; None for that of the layers that it changes.

        Raises:
            ValueError: the name is taken, or no layer fits a target.
        """
        if name in self._trainable:
            raise ValueError(f"there is an adapter {name!r} already")
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
            self.transformer.add_adapter(config, name)
        generator = torch.Generator().manual_seed(seed)
        for layer in self._tuner_layers():
            if name in layer.lora_A:
                layer.lora_A[name].to(dtype=dtype)
                layer.lora_B[name].to(dtype=dtype)
                a, _ = _matrices(layer, name)
                drawn = torch.empty(a.shape)
                nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
                with torch.no_grad():
                    a.copy_(drawn)
        self._trainable[name] = trainable
        self.adopt()

    def adopt(self) -> None:
        """Takes in, frozen, what others have added to the transformer, as `load_lora_weights` does.

        Call it after they did: adding an adapter activates it.
        """
        self._layers = self._tuner_layers()
        for layer in self._layers:
            for name in layer.lora_A:
                self._trainable.setdefault(name, False)
        for name, trainable in self._trainable.items():
            for parameter in self._parameters(name):
                parameter.requires_grad_(trainable)
        self._switch(self._active)

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """The transformer with one adapter, None for without any, until the block ends.

        Then what was active before is so again. Nothing else changes: not what is trainable.

        Raises:
            ValueError: there is no such adapter.
        """
        self._check(name)
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """An adapter's weights, always in the same order.

        Raises:
            ValueError: there is no such adapter.
        """
        self._check(name)
        return list(self._parameters(name))

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """An adapter's weights by PEFT's names, as `save_lora_weights` takes them."""
        self._check(name)
        return get_peft_model_state_dict(self.transformer, adapter_name=name)

    def enable_gradient_checkpointing(self) -> None:
        """Has each block's activations computed again in the backward pass, with the adapter that
        was active in the forward pass, whichever is active then."""

        def recomputed(block: nn.Module, *args: Any) -> Any:
            name = self._active

            def run(*args: Any) -> Any:
                with self.use(name):
                    return block(*args)

            return checkpoint(run, *args, use_reentrant=False)

        self.transformer.enable_gradient_checkpointing(recomputed)

    def _check(self, name: str | None) -> None:
        if name is not None and name not in self._trainable:
            raise ValueError(
                f"no adapter {name!r}; there are {', '.join(self._trainable) or 'none'}"
            )

    def _tuner_layers(self) -> list[LoraLayer]:
        return [part for part in self.transformer.modules() if isinstance(part, LoraLayer)]

    def _parameters(self, name: str) -> Iterator[nn.Parameter]:
        for layer in self._layers:
            if name in layer.lora_A:
                yield from _matrices(layer, name)

    def _switch(self, name: str | None) -> None:
        if name == self._active and self._is_switched(name):
            return
        self._active = name
        active = [] if name is None else [name]
        # PEFT's own ways to say this set requires_grad too.
        for layer in self._layers:
            layer._active_adapter = active
            layer._disable_adapters = name is None

    def _is_switched(self, name: str | None) -> bool:
        """Whether the first layer says so too: adding an adapter has activated it."""
        if not self._layers:
            return True
        first = self._layers[0]
        active = [] if name is None else [name]
        return first.active_adapters == active and first.disable_adapters == (name is None)


def _matrices(layer: LoraLayer, name: str) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B of an adapter in a layer that has it."""
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    assert isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)
    return a, b
