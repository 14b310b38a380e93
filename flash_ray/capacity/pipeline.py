"""The sizes of a base's parts, from their configuration files alone: nothing is loaded."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Self, TypeVar

from flash_ray.errors import UserError
from flash_ray.models.loading import resolve_base
from flash_ray.recipe.sections import Lora

TIME_CHANNELS = 256  # of the sinusoidal embedding of t
SMALLEST_TARGET_TOKENS = 4  # the target that a teacher's prefill carries along
T = TypeVar("T")
KNOWN = "Qwen/Qwen-Image-2.1"  # the hub id whose sizes are the defaults below


@dataclass(frozen=True)
class Packing:
    """Bytes of a linear layer as `models.quantized` has it.

    Args:
        weight: of each weight, with the scales of blocks.
        output: of each output's scale.
        working: of each weight, while one layer is unpacked.
    """

    weight: float
    output: float
    working: float


# nf4 has a scale of a byte for 64 weights, and one of four bytes for 256 of these scales. torchao
# unpacks in fp32.
PACKINGS = {
    "fp8": Packing(1, 4, 10),
    "int8": Packing(1, 4, 10),
    "nf4": Packing(1 / 2 + 1 / 64 + 4 / (64 * 256), 0, 2.1),
}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Qwen-Image-2.1 transformer; the defaults are those of the released model.

    Args:
        width: heads x channels of a head.
        context_width: channels of the text encoder's states.
    """

    layers: int = 32
    width: int = 4096
    head_width: int = 128
    mlp_ratio: int = 3
    in_channels: int = 64
    out_channels: int = 64
    context_width: int = 4096

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the sizes from a transformer's config.json."""
        return cls(
            layers=config["num_layers"],
            width=config["num_attention_heads"] * config["attention_head_dim"],
            head_width=config["attention_head_dim"],
            mlp_ratio=config["mlp_ratio"],
            in_channels=config["in_channels"],
            out_channels=config["out_channels"] or config["in_channels"],
            context_width=config["context_in_dim"],
        )

    @property
    def layer_weights(self) -> int:
        """Weights of a layer's matrices: four of the attention, three of the gated MLP."""
        return (4 + 3 * self.mlp_ratio) * self.width**2

    @property
    def parameters(self) -> int:
        """All weights of the model, which has no biases."""
        width = self.width
        blocks = self.layers * (self.layer_weights + 2 * self.head_width)
        time = TIME_CHANNELS * width + width**2
        text = self.context_width + self.context_width * width + width**2
        modulation = 4 * width**2 + width**2  # the blocks' shared one, and the last norm's
        return blocks + time + text + modulation + (self.in_channels + self.out_channels) * width

    def packed_bytes(self, packing: Packing, value: int) -> float:
        """Bytes of all weights, `value` each where they are not quantized."""
        total = float(value * self.parameters)
        for inputs, outputs in self.layers_with(None):
            total += inputs * outputs * (packing.weight - value) + outputs * packing.output
        return total

    @property
    def largest_layer(self) -> int:
        """Weights of the blocks' largest linear layer."""
        return max(inputs * outputs for inputs, outputs in self.layers_with(None))

    def layers_with(self, targets: Sequence[str] | None) -> Iterator[tuple[int, int]]:
        """Yields (inputs, outputs) of each linear layer that a LoRA changes.

        Args:
            targets: names, or ends of names; None: all linear layers of the blocks.
        """
        for name, sides in self._linear_layers():
            of_block = name.startswith("transformer_blocks.")
            if of_block if targets is None else _is_target(name, targets):
                yield sides

    def lora_parameters(self, lora: Lora) -> int:
        """Weights of a LoRA of that shape: A and B of each layer that it changes."""
        return sum(lora.rank * sum(sides) for sides in self.layers_with(lora.targets))

    def _linear_layers(self) -> Iterator[tuple[str, tuple[int, int]]]:
        width, inner = self.width, self.mlp_ratio * self.width
        yield "time_text_embed.timestep_embedder.linear_1", (TIME_CHANNELS, width)
        yield "time_text_embed.timestep_embedder.linear_2", (width, width)
        yield "txt_in.in_layer", (self.context_width, width)
        yield "txt_in.out_layer", (width, width)
        yield "img_in", (self.in_channels, width)
        yield "modulation.1", (width, 4 * width)
        for number in range(self.layers):
            block = f"transformer_blocks.{number}"
            for name in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"{block}.attn.{name}", (width, width)
            yield f"{block}.img_mlp.proj", (width, inner)
            yield f"{block}.img_mlp.out", (inner, width)
            yield f"{block}.img_mlp.gate_layer", (width, inner)
        yield "norm_out.linear", (width, width)
        yield "proj_out", (width, self.out_channels)

    def full_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """FLOPs of one forward pass over text, references and target, for one sample.

        2 FLOPs for each weight and token (Kaplan et al., arXiv 2001.08361, section 2.1), and
        4 x width for each pair of query and key and each layer. References attend to all that is
        before them and to themselves; the prefix is counted as if all of it did. Of it the last
        layer computes keys and values alone. Projections in and out, norms and modulation are left
        out: under 1 %.
        """
        pairs = prefix_tokens**2 + target_tokens * (prefix_tokens + target_tokens)
        unread = self.layer_weights - 2 * self.width**2
        last = 2 * unread * prefix_tokens + 4 * self.width * prefix_tokens**2
        return self._flops(prefix_tokens + target_tokens, pairs) - last

    def cached_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """FLOPs of a pass with the prefix's keys and values at hand, counted as in `full_flops`."""
        return self._flops(target_tokens, target_tokens * (prefix_tokens + target_tokens))

    def prefill_flops(self, prefix_tokens: float) -> float:
        """FLOPs of computing the prefix's keys and values, as `prompt_cache.prefill` does."""
        return self.full_flops(prefix_tokens, SMALLEST_TARGET_TOKENS)

    def _flops(self, tokens: float, pairs: float) -> float:
        return self.layers * (2 * self.layer_weights * tokens + 4 * self.width * pairs)


@dataclass(frozen=True)
class Vae:
    """The sizes of the VAE; the defaults are those of the released model.

    Args:
        width, decoder_width: channels at full resolution.
        patch: pixels of a side that the first layer joins.
    """

    parameters: int = 337_740_404
    width: int = 96
    decoder_width: int = 144
    patch: int = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], parameters: int) -> Self:
        """Reads the sizes from a VAE's config.json."""
        width = config["base_dim"]
        patch = config.get("patch_size") or 1
        return cls(parameters, width, config.get("decoder_base_dim") or width, patch)


@dataclass(frozen=True)
class TextEncoder:
    """The sizes of the text encoder; the defaults are those of Qwen3-VL-8B, the released one."""

    parameters: int = 8_770_000_000
    layers: int = 36
    width: int = 4096
    vocabulary: int = 151_936

    @classmethod
    def from_config(cls, config: Mapping[str, Any], parameters: int) -> Self:
        """Reads the sizes from a text encoder's config.json."""
        text = config["text_config"]
        sizes = (text[name] for name in ("num_hidden_layers", "hidden_size", "vocab_size"))
        return cls(parameters, *sizes)


@dataclass(frozen=True)
class Pipeline:
    """The sizes of a base's parts.

    Args:
        is_known: whether they are the base's own, and not those of Qwen-Image-2.1 in their stead.
    """

    transformer: Architecture = field(default_factory=Architecture)
    vae: Vae = field(default_factory=Vae)
    text_encoder: TextEncoder = field(default_factory=TextEncoder)
    is_known: bool = True


def pipeline_of(base: str) -> Pipeline:
    """The sizes of a base; those of Qwen-Image-2.1 for a hub id, of which nothing is downloaded.

    Raises:
        UserError: `base` is a checkpoint or looks like a folder, and holds no pipeline, or one
            whose transformer cannot be told.
    """
    source = resolve_base(base)
    folder = Path(source)
    if not folder.is_dir():
        return Pipeline(is_known=source.partition("@")[0] == KNOWN)
    return Pipeline(
        _part(
            folder / "transformer", Architecture, lambda config, _: Architecture.from_config(config)
        ),
        _part(folder / "vae", Vae, Vae.from_config),
        _part(folder / "text_encoder", TextEncoder, TextEncoder.from_config),
    )


def known_pipeline(base: str) -> Pipeline | None:
    """The sizes of a base's own parts; None where they cannot be told, as of other families."""
    try:
        pipeline = pipeline_of(base)
    except UserError:
        return None
    return pipeline if pipeline.is_known else None


def stored_parameters(folder: Path) -> int:
    """Weights in a folder's safetensors files, as the files' headers say."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(prod(each["shape"]) for name, each in header.items() if name[:2] != "__")
    return total


def _part(folder: Path, default: Callable[[], T], read: Callable[[Any, int], T]) -> T:
    """What `read` makes of a part's configuration and the number of its weights."""
    config = folder / "config.json"
    if not config.is_file():
        return default()
    try:
        return read(json.loads(config.read_text(encoding="utf-8")), stored_parameters(folder))
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(
            f"base: {config} cannot be read ({type(error).__name__}: {error}); give a folder "
            "written by save_pretrained"
        ) from error


def _is_target(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT changes the layer of that name."""
    return any(name == target or name.endswith(f".{target}") for target in targets)
