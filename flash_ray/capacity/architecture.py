"""Parameters and FLOPs of a Qwen-Image-2.1 transformer, from its configuration alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flash_ray.models.loading import resolve_base

TIME_CHANNELS = 256  # of the sinusoidal embedding of t
SMALLEST_TARGET_TOKENS = 4  # of the target that a teacher's prefill carries along


@dataclass(frozen=True)
class Architecture:
    """The sizes that decide; the defaults are those of diffusers' `QwenImage21Transformer2DModel`.

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
        """From a transformer's config.json."""
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
        """Of a layer's matrices: four of the attention, three of the gated feed-forward net."""
        return (4 + 3 * self.mlp_ratio) * self.width**2

    @property
    def parameters(self) -> int:
        """All of them; the model has no biases."""
        width = self.width
        blocks = self.layers * (self.layer_weights + 2 * self.head_width)
        time = TIME_CHANNELS * width + width**2
        text = self.context_width + self.context_width * width + width**2
        modulation = 4 * width**2 + width**2  # the blocks' shared one, and the last norm's
        return blocks + time + text + modulation + (self.in_channels + self.out_channels) * width

    def full_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """Of one forward pass over text, references and target, for one sample.

        2 FLOPs for each weight and token (Kaplan et al., arXiv 2001.08361, section 2.1), and
        4 x width for each pair of query and key and each layer. References attend to all that is
        before them and to themselves; the prefix is counted as if all of it did. Projections in
        and out, norms and modulation are left out: under 1 %.
        """
        pairs = prefix_tokens**2 + target_tokens * (prefix_tokens + target_tokens)
        return self._flops(prefix_tokens + target_tokens, pairs)

    def cached_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """As `full_flops`, with the prefix's keys and values at hand."""
        return self._flops(target_tokens, target_tokens * (prefix_tokens + target_tokens))

    def prefill_flops(self, prefix_tokens: float) -> float:
        """Of computing the prefix's keys and values, as `backbones.prefixes.prefill` does."""
        return self.full_flops(prefix_tokens, SMALLEST_TARGET_TOKENS)

    def _flops(self, tokens: float, pairs: float) -> float:
        return self.layers * (2 * self.layer_weights * tokens + 4 * self.width * pairs)


def architecture_of(base: str) -> Architecture:
    """Of a pipeline's folder or 'miniature'; of a hub id the defaults, nothing is downloaded.

    Raises:
        UserError: `base` looks like a folder and holds no pipeline.
    """
    config = Path(resolve_base(base)) / "transformer" / "config.json"
    if not config.is_file():
        return Architecture()
    return Architecture.from_config(json.loads(config.read_text(encoding="utf-8")))
