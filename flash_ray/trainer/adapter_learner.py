"""Trains one LoRA of a shared frozen base.

The adapter works in the base's precision; the optimizer has fp32 weights in one flat tensor, and
gradients are accumulated in another one, which workers average in one call. No weight of the base
has a gradient or a place in the optimizer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from flash_ray.models.adapters import Adapted
from flash_ray.recipe.sections import Adam
from flash_ray.storage.manifest import FileRecord
from flash_ray.trainer.optimizer import AdamW
from flash_ray.trainer.sharded_base import is_sharded
from flash_ray.trainer.tensor_file import write_tensors

if TYPE_CHECKING:
    from flash_ray.models.adapters import Adapters

AVERAGE = "average"  # the adapter that takes the averaged student's weights
_STATE, _AVERAGE_STATE = "adapter.safetensors", "average.safetensors"


class AdapterLearner:
    """An adapter and its AdamW, as a `Learner`; whole, and alike, on every worker.

    Args:
        adapters: of the base; the adapter is trainable.
        name: of the adapter.
        max_grad_norm: to which a longer gradient is clipped; None: never.
        passes: backward passes of one optimizer step.
    """

    def __init__(
        self,
        adapters: "Adapters",
        name: str,
        adam: Adam,
        max_grad_norm: float | None = None,
        passes: int = 1,
    ) -> None:
        self.adapters, self.name = adapters, name
        self.module: nn.Module = adapters.transformer
        self._weights = adapters.parameters(name)
        if not all(weight.requires_grad for weight in self._weights):
            raise ValueError(f"adapter {name!r} was added as one that is not trained")
        self._max_grad_norm, self._passes, self._done = max_grad_norm, passes, 0
        self.device = self._weights[0].device
        #: fp32 weights, flat, in the order of `Adapters.parameters`.
        self.master = nn.Parameter(_flat(self._weights))
        self.master.grad = torch.zeros_like(self.master)
        #: The gradient's norm of the last step, before it was clipped: a tensor, not to be waited
        #: for where nobody looks.
        self.grad_norm = torch.zeros((), device=self.device)
        self._optimizer = AdamW([self.master], adam)
        self._accumulate_fp32()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The base with this adapter."""
        with self.adapters.use(self.name):
            return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a pass's scalar loss."""
        # Recomputed blocks find it active already, and need not switch.
        with self.adapters.use(self.name):
            (loss / self._passes).backward()

    @torch.no_grad()
    def step(self) -> None:
        """Ends a pass; after the last one of a step, updates the weights. A collective then."""
        self._done += 1
        if self._done % self._passes:
            return
        gradient = self.master.grad
        assert gradient is not None, "it is made with the weights"
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(gradient)
            gradient.div_(dist.get_world_size())
        self.grad_norm = torch.linalg.vector_norm(gradient)
        if self._max_grad_norm is not None:
            gradient.mul_((self._max_grad_norm / (self.grad_norm + 1e-6)).clamp(max=1.0))
        self._optimizer.step()
        gradient.zero_()
        copy_flat(self.master, self._weights)

    def average(self, decay: float) -> "AdapterEMA":
        return AdapterEMA(self, decay)

    def save(self, folder: Path) -> dict[str, FileRecord]:
        if not _is_first():
            return {}
        return {_STATE: write_tensors(folder / _STATE, self.state_dict())}

    def load(self, folder: Path) -> None:
        self.load_state_dict(load_file(folder / _STATE))

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs, for safetensors: weights and moments, alike on all workers."""
        moments = self._optimizer.state.get(self.master, {})
        return {"weights": self.master.detach(), **moments}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave, between two steps."""
        self.master.copy_(tensors["weights"])
        copy_flat(self.master, self._weights)
        state = self._optimizer.state
        state.pop(self.master, None)
        moments = {name: value for name, value in tensors.items() if name != "weights"}
        if moments:
            state[self.master] = {
                name: value.to(self.device, torch.float32, copy=True)
                for name, value in moments.items()
            }

    def _accumulate_fp32(self) -> None:
        """Has every gradient, once it is whole, added to its place in the flat fp32 one."""
        gradient = self.master.grad
        assert gradient is not None, "it is made with the weights"
        start = 0
        for weight in self._weights:
            place = gradient[start : start + weight.numel()].view(weight.shape)
            start += weight.numel()

            def add(parameter: Tensor, place: Tensor = place) -> None:
                assert parameter.grad is not None, "called once it is there"
                place.add_(parameter.grad)
                parameter.grad = None

            weight.register_post_accumulate_grad_hook(add)


class AdapterEMA:
    """The exponential moving average of an adapter's fp32 weights, whole on every worker.

    Args:
        decay: per update; 0 keeps the newest weights.
    """

    def __init__(self, learner: AdapterLearner, decay: float) -> None:
        self._learner, self._decay = learner, decay
        self.average = learner.master.detach().clone()

    @torch.no_grad()
    def update(self) -> None:
        """Takes the adapter's weights of now into the average."""
        self.average.lerp_(self._learner.master, 1 - self._decay)

    def write(self, name: str) -> None:
        """Gives another adapter of the same shape on the same base the averaged weights."""
        copy_flat(self.average, self._learner.adapters.parameters(name))

    @contextmanager
    def averaged(self) -> Iterator[Adapted | None]:
        """The base with the averaged adapter, for the block; on other ranks than 0 None, unless
        they are needed for a pass: the base is sharded."""
        if not _is_first() and not is_sharded(self._learner.module):
            yield None
            return
        self.write(AVERAGE)
        yield Adapted(self._learner.adapters, AVERAGE)

    def save(self, folder: Path) -> dict[str, FileRecord]:
        """Writes what a resumed run needs, on rank 0."""
        if not _is_first():
            return {}
        return {_AVERAGE_STATE: write_tensors(folder / _AVERAGE_STATE, {AVERAGE: self.average})}

    def load(self, folder: Path) -> None:
        """Takes up what was saved."""
        self.average.copy_(load_file(folder / _AVERAGE_STATE)[AVERAGE])


def _is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def _flat(tensors: list[nn.Parameter]) -> Tensor:
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors])


@torch.no_grad()
def copy_flat(flat: Tensor, weights: list[nn.Parameter]) -> None:
    """Writes the values of a flat tensor into weights, in their order and precision.

    Raises:
        ValueError: there are not as many weights as values.
    """
    sizes = [weight.numel() for weight in weights]
    if sum(sizes) != flat.numel():
        raise ValueError(f"{flat.numel()} values for {sum(sizes)} weights")
    parts = [
        part.view(weight.shape) for part, weight in zip(flat.split(sizes), weights, strict=True)
    ]
    torch._foreach_copy_(list[Tensor](weights), parts)
