"""What every model family shares: layouts, conditions, the cache of prompts, the interface.

Rectified flow throughout: z_t = (1-t)*x + t*eps, v = eps - x, t in [0, 1], data at t = 0.
Latents x_BNC are packed (one token for 16x16 pixels, row by row) and normalized to unit scale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from flash_ray.recipe.sizes import MULTIPLE

if TYPE_CHECKING:
    from flash_ray.models.adapters import Adapters

PIXELS_PER_TOKEN = 16


@dataclass(frozen=True)
class Layout:
    """Task and picture shapes that all rows of a batch share.

    Args:
        task: "t2i" or "edit"; an edit has at least one reference.
        height, width: of the output in pixels, multiples of 32.
        references: (height, width) in pixels of each reference picture, multiples of 32.
    """

    task: Literal["t2i", "edit"]
    height: int
    width: int
    references: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        sizes = ((self.height, self.width), *self.references)
        if any(side <= 0 or side % MULTIPLE for size in sizes for side in size):
            raise ValueError(f"sides {sizes} must be positive multiples of {MULTIPLE}")
        if (self.task == "edit") != bool(self.references):
            raise ValueError(f"task {self.task!r} with {len(self.references)} references")

    @property
    def tokens(self) -> int:
        """Latent tokens of the output."""
        return (self.height // PIXELS_PER_TOKEN) * (self.width // PIXELS_PER_TOKEN)


@dataclass(frozen=True)
class Condition:
    """What the transformer is conditioned on, for a batch of one layout.

    Args:
        layout: shared by the rows.
        embeds_BLD: hidden states of the text encoder, right-padded with zeros. At slots they are
            zeros too: latents of the references take their place, no transformer reads them.
        mask_BL: bool, True at real tokens.
        slots_BL: bool, True where an image stands in for a token; the same in every row.
        references_BNC: packed normalized latents of the reference images, None for T2I.

    The transformer counts padding as positions, as the pipeline's batches do: a row's result
    depends a little on L.
    """

    layout: Layout
    embeds_BLD: Tensor
    mask_BL: Tensor
    slots_BL: Tensor
    references_BNC: Tensor | None = None

    def __len__(self) -> int:
        return self.embeds_BLD.shape[0]

    @cached_property
    def is_padded(self) -> bool:
        """Whether a row has padding; computed once, for what `to` returns too: a GPU must wait."""
        return not bool(self.mask_BL.all())

    @cached_property
    def slots(self) -> tuple[bool, ...]:
        """The slots of every row; computed once, as `is_padded`."""
        return tuple(self.slots_BL[0].tolist())

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Condition":
        """Moves every tensor; `dtype` applies to embeddings and reference latents."""
        references = self.references_BNC
        moved = replace(
            self,
            embeds_BLD=self.embeds_BLD.to(device=device, dtype=dtype),
            mask_BL=self.mask_BL.to(device=device),
            slots_BL=self.slots_BL.to(device=device),
            references_BNC=None
            if references is None
            else references.to(device=device, dtype=dtype),
        )
        moved.__dict__.update(is_padded=self.is_padded, slots=self.slots)
        return moved

    def rows(self, indices: Sequence[int] | Tensor) -> "Condition":
        """The rows at `indices`, in that order; L stays as it is."""
        index = torch.as_tensor(indices, dtype=torch.long, device=self.embeds_BLD.device)
        chosen = {name: value[index] for name, value in self.tensors().items()}
        return Condition.from_tensors(self.layout, chosen)

    @staticmethod
    def cat(conditions: Sequence["Condition"]) -> "Condition":
        """Joins batches of one layout (else ValueError), right-padding to the longest."""
        layouts = {condition.layout for condition in conditions}
        if len(layouts) != 1:
            raise ValueError(
                f"one layout per batch, got {len(layouts)}: {sorted(map(str, layouts))}"
            )
        length = max(condition.embeds_BLD.shape[1] for condition in conditions)
        parts = [condition._padded(length).tensors() for condition in conditions]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Condition.from_tensors(layouts.pop(), joined)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by field name; `from_tensors` is the inverse."""
        named = {
            "embeds_BLD": self.embeds_BLD,
            "mask_BL": self.mask_BL,
            "slots_BL": self.slots_BL,
            "references_BNC": self.references_BNC,
        }
        return {name: value for name, value in named.items() if value is not None}

    @staticmethod
    def from_tensors(layout: Layout, tensors: Mapping[str, Tensor]) -> "Condition":
        """A condition from its tensors by field name, as `tensors` gives them."""
        return Condition(layout, **tensors)

    def packed(self) -> dict[str, Tensor]:
        """The tensors to keep or to send: without what stands at slots, most of an edit's bytes.

        texts_BTD and mask_BT are of the T tokens that are no slots, slots_P is bool, True at the
        slots of every row up to the last one; references_BNC as it is.
        """
        slots_L = self.slots_BL[0]
        last = int(slots_L.nonzero().max()) + 1 if slots_L.any() else 0
        packed = {
            "texts_BTD": self.embeds_BLD[:, ~slots_L],
            "mask_BT": self.mask_BL[:, ~slots_L],
            "slots_P": slots_L[:last],
        }
        if self.references_BNC is not None:
            packed["references_BNC"] = self.references_BNC
        return packed

    @staticmethod
    def unpacked(layout: Layout, packed: Mapping[str, Tensor]) -> "Condition":
        """A condition from its tensors as `packed` gives them."""
        texts_BTD, mask_BT, slots_P = packed["texts_BTD"], packed["mask_BT"], packed["slots_P"]
        batch, texts, _ = texts_BTD.shape
        slots_L = pad(slots_P, (0, texts - int((~slots_P).sum())), value=False)
        embeds_BLD = texts_BTD.new_zeros(batch, len(slots_L), texts_BTD.shape[2])
        embeds_BLD[:, ~slots_L] = texts_BTD
        mask_BL = slots_L.repeat(batch, 1)
        mask_BL[:, ~slots_L] = mask_BT
        slots_BL = slots_L.repeat(batch, 1)
        return Condition(layout, embeds_BLD, mask_BL, slots_BL, packed.get("references_BNC"))

    def trimmed(self) -> "Condition":
        """Without the padding that all rows share."""
        length = int(self.mask_BL.sum(1).max())
        return replace(
            self,
            embeds_BLD=self.embeds_BLD[:, :length],
            mask_BL=self.mask_BL[:, :length],
            slots_BL=self.slots_BL[:, :length],
        )

    def _padded(self, length: int) -> "Condition":
        extra = length - self.embeds_BLD.shape[1]
        return replace(
            self,
            embeds_BLD=pad(self.embeds_BLD, (0, 0, 0, extra)),
            mask_BL=pad(self.mask_BL, (0, extra), value=False),
            slots_BL=pad(self.slots_BL, (0, extra), value=False),
        )


@dataclass(frozen=True)
class ConditionPair:
    """A condition and its negative for guidance: the same references with an empty prompt."""

    positive: Condition
    negative: Condition

    @property
    def layout(self) -> Layout:
        """The layout that both conditions have."""
        return self.positive.layout

    def __len__(self) -> int:
        return len(self.positive)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "ConditionPair":
        """Moves both conditions; see `Condition.to`."""
        return ConditionPair(self.positive.to(device, dtype), self.negative.to(device, dtype))

    def rows(self, indices: Sequence[int] | Tensor) -> "ConditionPair":
        """The rows of both conditions at `indices`; see `Condition.rows`."""
        return ConditionPair(self.positive.rows(indices), self.negative.rows(indices))

    def trimmed(self) -> "ConditionPair":
        """Both conditions, each without the padding that all its rows share."""
        return ConditionPair(self.positive.trimmed(), self.negative.trimmed())

    @staticmethod
    def cat(items: Sequence["ConditionPair"]) -> "ConditionPair":
        """Joins batches of one layout; ValueError on mixed layouts."""
        return ConditionPair(
            Condition.cat([item.positive for item in items]),
            Condition.cat([item.negative for item in items]),
        )


KeysValues = tuple[Tensor, Tensor]  # k_BLHD, v_BLHD


class PromptCache:
    """Keys and values of one batch's text and references, under one set of weights.

    They do not depend on t: the first `Model.velocity` call that gets the cache fills it, later
    calls reuse it. Make a new one for each batch, for each of positive and negative condition, and
    after every change of the weights.

    Args:
        graph: whether gradients pass through it to the weights, for several calls before one
            backward pass; calls without gradients fill it with its graph too. A cache without it is
            not used while gradients are on.
        layers: of each layer; None: not filled.
    """

    def __init__(self, graph: bool = False) -> None:
        self.graph = graph
        self.layers: Sequence[KeysValues] | None = None


class Model(Protocol):
    """A loaded model: encodes conditions, predicts velocities, codes images as latents."""

    name: str

    @property
    def latent_channels(self) -> int:
        """C of x_BNC."""

    @property
    def transformer(self) -> nn.Module:
        """The base transformer, frozen, in eval mode."""

    def to(self, device: torch.device | str) -> None:
        """Moves all parts to a device."""

    def compile_blocks(self) -> None:
        """Has the transformer's blocks compiled when they are first called; copies of it too."""

    def copy_transformer(self) -> nn.Module:
        """A trainable deep copy of the base transformer, made before any LoRA is added."""

    def load_transformer(self, source: Path | str, device: torch.device | None = None) -> nn.Module:
        """A frozen transformer of the base's shape: a folder or a hub id, in diffusers format, of a
        transformer or of a pipeline, by default on the base's device; or the folder of a LoRA,
        which is added to the base and lies there for as long as someone has what is returned."""

    @property
    def adapters(self) -> "Adapters":
        """The LoRAs on the base transformer: whoever uses one has it activated here."""

    @property
    def lora_targets(self) -> list[str]:
        """The layers that a LoRA student changes where the recipe names none: all linear layers of
        the transformer's blocks."""

    def add_lora(self, file: Path, name: str) -> None:
        """Adds a LoRA to the base transformer, frozen and not in use."""

    def encode(
        self,
        prompts: list[str],
        references: list[list[Image.Image]] | None,
        size: tuple[int, int],
    ) -> ConditionPair:
        """Encodes cases of one layout; `size` is the output's (height, width) in pixels."""

    def velocity(
        self,
        transformer: Callable[..., Any],
        x_BNC: Tensor,
        t_B: Tensor,
        condition: Condition,
        cache: PromptCache | None = None,
    ) -> Tensor:
        """v_BNC at z_t = x_BNC, in x_BNC's dtype; `transformer` is a transformer, or what is called
        like one and has it as `module`."""

    def scheduled(self, sigmas: Sequence[float], layout: Layout) -> list[float]:
        """The noise levels at which the checkpoint's pipeline takes the steps of a call with these
        `sigmas`: its scheduler may shift them, by the size of the picture too."""

    def save_student(self, transformer: nn.Module, folder: Path) -> None:
        """Saves a transformer, or a LoRA of the base (an `Adapted`), as the family's pipeline loads
        it, and a scheduler config with which the pipeline takes its `sigmas` as they are."""

    def to_latents(self, images: list[Image.Image]) -> Tensor:
        """Encodes images of one size: x_BNC."""

    def to_images(self, x_BNC: Tensor, layout: Layout) -> np.ndarray:
        """Decodes latents to RGB images, uint8, (B, H, W, 3)."""


@runtime_checkable
class DrawsAlpha(Protocol):
    """What a model whose pictures may be transparent has beside a `Model`'s methods."""

    def to_rgba(self, x_BNC: Tensor, layout: Layout) -> np.ndarray:
        """Decodes latents to RGBA images, uint8, (B, H, W, 4)."""


class ModelFamily(Protocol):
    """What a package registers in `flash_ray.models`: a class whose instances are models.

    `pipeline_class` is the diffusers class that a checkpoint's model_index.json names.
    """

    name: str
    pipeline_class: str

    def from_pretrained(
        self,
        source: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        encoders: bool = True,
        transformer: bool = True,
        vae: bool = True,
    ) -> Model:
        """Loads a folder or a hub id, on request without text encoder, transformer or VAE.

        Raises UserError if that cannot be loaded.
        """

    def own_sigmas(self, source: str | Path) -> list[float]:
        """The `sigmas` with which the pipeline samples when a call names none, from its
        configuration alone; ValueError if it is not sampled by Euler's method."""

    def transformer_shapes(self, source: str | Path) -> dict[str, list[int]]:
        """Shapes of the transformer's weights by name, from its configuration alone."""

    def check_lora(self, file: Path, source: str | Path) -> None:
        """Checks that a LoRA fits the transformer of `source`; ValueError if not."""

    def transformer_channels(self, source: str | Path) -> int:
        """C of the latents that the transformer takes, from its configuration alone."""


def own_weights(transformer: nn.Module) -> dict[str, Tensor]:
    """A transformer's own weights by name, whatever adapters it has."""
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in transformer.state_dict().items()
        if ".lora_" not in name
    }


def shapes_of(transformer: nn.Module) -> dict[str, list[int]]:
    """Shapes of a transformer's own weights by name, whatever adapters it has."""
    return {name: list(weight.shape) for name, weight in own_weights(transformer).items()}


def first_difference(shapes: dict[str, list[int]], wanted: dict[str, list[int]]) -> str:
    """The first weight in which shapes differ from those that are wanted; "" if none does."""
    for name in sorted({*shapes, *wanted}):
        ours, theirs = shapes.get(name, "missing"), wanted.get(name, "missing")
        if ours != theirs:
            return f"{name}: {ours}, not {theirs}"
    return ""
