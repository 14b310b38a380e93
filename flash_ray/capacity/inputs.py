"""What an estimate takes: a transformer's architecture, assumptions about machines and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError

from flash_ray.errors import UserError
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import messages
from flash_ray.recipe.schema import Section

TIME_CHANNELS = 256  # of the sinusoidal embedding of t
SMALLEST_TARGET_TOKENS = 4  # the target that a teacher's prefill carries along


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

    def full_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """FLOPs of one forward pass over text, references and target, for one sample.

        2 FLOPs for each weight and token (Kaplan et al., arXiv 2001.08361, section 2.1), and
        4 x width for each pair of query and key and each layer. References attend to all that is
        before them and to themselves; the prefix is counted as if all of it did. Projections in
        and out, norms and modulation are left out: under 1 %.
        """
        pairs = prefix_tokens**2 + target_tokens * (prefix_tokens + target_tokens)
        return self._flops(prefix_tokens + target_tokens, pairs)

    def cached_flops(self, prefix_tokens: float, target_tokens: float) -> float:
        """FLOPs as of `full_flops`, with the prefix's keys and values at hand."""
        return self._flops(target_tokens, target_tokens * (prefix_tokens + target_tokens))

    def prefill_flops(self, prefix_tokens: float) -> float:
        """FLOPs of computing the prefix's keys and values, as `prompt_cache.prefill` does."""
        return self.full_flops(prefix_tokens, SMALLEST_TARGET_TOKENS)

    def _flops(self, tokens: float, pairs: float) -> float:
        return self.layers * (2 * self.layer_weights * tokens + 4 * self.width * pairs)


def architecture_of(base: str) -> Architecture:
    """The architecture of a base; the defaults for a hub id, of which nothing is downloaded.

    Raises:
        UserError: `base` is a checkpoint or looks like a folder, and holds no pipeline.
    """
    config = Path(resolve_base(base)) / "transformer" / "config.json"
    if not config.is_file():
        return Architecture()
    return Architecture.from_config(json.loads(config.read_text(encoding="utf-8")))


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Assumptions(Section):
    """Numbers of the machines and of the data; the defaults are one H100 SXM in nodes of 8."""

    device_flops_per_s: Positive = Field(
        989e12, description="dense bf16 peak of one GPU, above 0 (H100 SXM data sheet: 989e12)"
    )
    mfu: Share = Field(0.4, description="share of the peak that trainers reach, above 0 to 1")
    teacher_mfu: Share = Field(0.4, description="share that teachers reach, above 0 to 1")
    pass_seconds: float = Field(
        0.0, ge=0, description="fixed cost of a pass through the transformer in s, 0 or more"
    )
    teacher_pass_seconds: float = Field(
        0.0, ge=0, description="the same of a teacher's passes in s, 0 or more"
    )
    optimizer_step_seconds: float = Field(
        0.05, ge=0, description="one AdamW step and what is averaged after it in s, 0 or more"
    )
    gpu_memory_gb: Positive = Field(80.0, description="of one GPU in GB, above 0")
    other_memory_gb: float = Field(
        4.0, ge=0, description="CUDA context, buffers, fragments per GPU in GB, 0 or more"
    )
    vae_gb: float = Field(1.35, ge=0, description="the VAE, on every GPU, in GB, 0 or more")
    activation_widths: Positive = Field(
        38.0,
        description="values kept for the backward pass per token and layer, in units of the width",
    )
    gpus_per_node: int = Field(8, ge=1, description="1 or more")
    gpu_link_gb_per_s: Positive = Field(
        450.0, description="one GPU to others of its node, one way, in GB/s (NVLink 4: 450)"
    )
    node_network_gb_per_s: Positive = Field(
        400.0,
        description="one node to others, one way, in GB/s (8 x 400 Gb/s InfiniBand: 400; "
        "100 Gb/s Ethernet: 12.5)",
    )
    network_efficiency: Share = Field(0.8, description="share of those that is reached, 0 to 1")
    overlap: float = Field(
        0.5, ge=0, le=1, description="share of compute that traffic can hide behind, 0 to 1"
    )
    object_store_gb_per_s: Positive = Field(
        1.2, description="a tensor from a trainer to a teacher or back in GB/s, above 0"
    )
    call_seconds: float = Field(0.002, ge=0, description="a call of an actor in s, 0 or more")
    s3_gb_per_s_per_node: Positive = Field(1.0, description="upload of a node in GB/s, above 0")
    text_tokens: float = Field(256.0, ge=0, description="of a prompt with its template, 0 or more")
    negative_text_tokens: float = Field(
        32.0, ge=0, description="of an empty prompt with its template, 0 or more"
    )
    references: float = Field(
        1.0, ge=0, description="images of an edit, each of the output's area, 0 or more"
    )


def assume(values: dict[str, Any]) -> Assumptions:
    """The assumptions with some changed; UserError for what is out of range."""
    try:
        return Assumptions.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"--set: {messages.problem(error, Assumptions)}") from None
