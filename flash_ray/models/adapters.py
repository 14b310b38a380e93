"""LoRAs that share one frozen transformer: a student, a fake score, an average, teachers.

PEFT keeps several adapters in a module and has one of them active. Whichever it activates becomes
trainable and all others stop being so: a student's forward, another adapter's forward and then the
student's backward give the student no gradient, and nothing fails. Here an adapter is trainable
because it was added so, whether or not it is the active one.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flash_ray.models.vae import kind

Given = ParamSpec("Given")
Result = TypeVar("Result")
# Several adapters are what this module is for.
warnings.filterwarnings("ignore", "Already found a `peft_config`", module="peft")
# Nothing is merged into a quantized base.
warnings.filterwarnings("ignore", "TorchaoLoraLinear was", module="peft")

# PEFT is imported where it is used: it takes seconds, and most commands use no LoRA.
if TYPE_CHECKING:
    from diffusers.loaders.peft import PeftAdapterMixin
    from diffusers.models.modeling_utils import ModelMixin
    from peft.tuners.lora import LoraLayer

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
        self._lent: WeakValueDictionary[str, Adapted] = WeakValueDictionary()
        self._borrowed: set[str] = set()
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
    ) -> None:
        """Adds an adapter that changes nothing yet: B is zero, A is drawn as PEFT draws it.

        Args:
            alpha: the adapter's scale is alpha / rank.
            targets: names, or ends of names, of the linear layers that it changes.
            trainable: whether its weights take gradients.
            seed: of A; the same numbers on every device.

        Raises:
            ValueError: the name is taken, or no layer fits a target.
        """
        from peft import LoraConfig

        if name in self._trainable:
            raise ValueError(f"there is an adapter {name!r} already")
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        with torch.random.fork_rng(devices=[]):  # PEFT draws from the global generator
            self.transformer.add_adapter(config, name)
        generator = torch.Generator().manual_seed(seed)
        for layer in self._tuner_layers():
            if name in layer.lora_A:
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
        _, dtype = kind(self.transformer)
        for layer in self._layers:
            # PEFT gives them the base layer's dtype, which a quantized one does not tell.
            layer.lora_A.to(dtype)
            layer.lora_B.to(dtype)
            for name in layer.lora_A:
                self._trainable.setdefault(name, False)
        for name, trainable in self._trainable.items():
            for parameter in self._parameters(name):
                parameter.requires_grad_(trainable)
        self._activate()

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

    def remove(self, name: str) -> None:
        """Takes an adapter off, which is not active, with its memory.

        Raises:
            ValueError: there is no such adapter.
        """
        self._check(name)
        self.transformer.delete_adapters(name)
        del self._trainable[name]
        self.adopt()

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Has an adapter change the base as another one does, in the target's own scale.

        Raises:
            ValueError: they are not of the same layers and ranks, or the source is no plain LoRA.
        """
        self._check(source)
        self._check(target)
        own = sum(source in layer.lora_A for layer in self._layers)
        for layer in self._layers:
            if (source in layer.lora_A) != (target in layer.lora_A):
                wanted = sum(target in layer.lora_A for layer in self._layers)
                raise ValueError(f"it has other layers: {own}, not these {wanted}")
        for layer in self._layers:
            if source not in layer.lora_A:
                continue
            (a, b), (own_a, own_b) = _matrices(layer, source), _matrices(layer, target)
            if a.shape != own_a.shape:
                raise ValueError(f"it has rank {len(a)}, not {len(own_a)}")
            if layer.use_dora[source] or layer.lora_bias[source]:
                raise ValueError("it has magnitudes or biases, which a plain LoRA does not have")
            own_a.copy_(a)
            own_b.copy_(b * (layer.scaling[source] / layer.scaling[target]))

    def lend(self, name: str) -> "Adapted":
        """The transformer with an adapter that is there for as long as someone has what is
        returned: then the next call of `remove_unused` takes it off."""
        self._check(name)
        self._borrowed.add(name)
        self._lent[name] = adapted = Adapted(self, name)
        return adapted

    def remove_unused(self) -> None:
        """Takes off the adapters that were lent and that nobody has any more."""
        for name in self._borrowed - {*self._lent}:
            self.remove(name)
            self._borrowed.discard(name)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """An adapter's weights, always in the same order.

        Raises:
            ValueError: there is no such adapter.
        """
        self._check(name)
        return list(self._parameters(name))

    def state_dict(self, name: str) -> dict[str, Tensor]:
        """An adapter's weights by PEFT's names, as `save_lora_weights` takes them."""
        from peft import get_peft_model_state_dict

        self._check(name)
        return get_peft_model_state_dict(self.transformer, adapter_name=name)

    def settings(self, name: str) -> dict[str, Any]:
        """An adapter's rank, alpha and layers, as `save_lora_weights` takes them."""
        self._check(name)
        layers = {key.rpartition(".lora_")[0] for key in self.state_dict(name)}
        config = self.transformer.peft_config[name]
        return {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": sorted(layers)}

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

    def _tuner_layers(self) -> "list[LoraLayer]":
        from peft.tuners.lora import LoraLayer

        return [part for part in self.transformer.modules() if isinstance(part, LoraLayer)]

    def _parameters(self, name: str) -> Iterator[nn.Parameter]:
        for layer in self._layers:
            if name in layer.lora_A:
                yield from _matrices(layer, name)

    def _switch(self, name: str | None) -> None:
        if name != self._active:
            self._active = name
            self._activate()

    def _activate(self) -> None:
        # PEFT's own ways to say this set requires_grad too.
        active = [] if self._active is None else [self._active]
        for layer in self._layers:
            layer._active_adapter = active
            layer._disable_adapters = not active


class Adapted(nn.Module):
    """The transformer with one of its adapters: called like a transformer, and no copy of it.

    Its parameters are those of the base and of all adapters.
    """

    def __init__(self, adapters: Adapters, name: str) -> None:
        super().__init__()
        self.module: nn.Module = adapters.transformer
        self.adapters, self.name = adapters, name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the transformer says with the adapter."""
        return self.using(self.module)(*args, **kwargs)

    def using(self, function: Callable[Given, Result]) -> Callable[Given, Result]:
        """A function that calls the transformer, with this adapter."""

        def called(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            with self.adapters.use(self.name):
                return function(*args, **kwargs)

        return called


def _matrices(layer: "LoraLayer", name: str) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B of an adapter in a layer that has it."""
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    assert isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)
    return a, b
