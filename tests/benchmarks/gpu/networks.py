"""Random networks of real and of tiny size, and conditions for them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import nn

from flash_ray.miniature.pipeline import build_processor, build_tokenizer
from flash_ray.models.base import PIXELS_PER_TOKEN, Condition, ConditionPair, Layout
from flash_ray.models.prompt_cache import SLOT
from flash_ray.models.qwen_image_21 import QwenImage21
from tests.helpers.small import SMALL_TRANSFORMER, SMALL_VAE

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj", "out", "gate_layer")  # of every block
SIGMAS = (1.0, 0.9, 0.75, 0.5)


@dataclass(frozen=True)
class Size:
    """What is measured how large.

    Args:
        transformer, vae: arguments of diffusers' classes; none: as the real checkpoint.
        full: arguments of the transformer whose copies are trained whole.
        side: of a picture, in pixels.
        text: tokens of a prompt.
        rank: of the LoRAs.
        steps: of the short and the long sampler.
        matmul: side of the matrices that tell the card's rate.
        repeats: of what is timed.
    """

    transformer: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=lambda: {"num_layers": 5})
    vae: dict[str, Any] = field(default_factory=dict)
    side: int = 1024
    text: int = 256
    rank: int = 64
    steps: tuple[int, int] = (4, 40)
    matmul: int = 8192
    repeats: int = 3
    dtype: torch.dtype = torch.bfloat16


REAL = Size()
_TINY = {**SMALL_TRANSFORMER, "num_attention_heads": 4, "context_in_dim": 64}
TINY = Size(
    transformer=_TINY,
    full={**_TINY, "num_layers": 1},
    vae=SMALL_VAE,
    side=64,
    text=8,
    rank=2,
    steps=(2, 4),
    matmul=128,
    repeats=1,
)


def build_transformer(
    config: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> QwenImage21Transformer2DModel:
    """A random frozen transformer; made on the device, where drawing the weights takes no time."""
    torch.manual_seed(0)
    with torch.device(device):
        transformer = QwenImage21Transformer2DModel(**config)
    return transformer.to(dtype).requires_grad_(False).eval()


def build_vae(size: Size, device: torch.device) -> AutoencoderKLQwenImage21:
    """A random VAE."""
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLQwenImage21(**size.vae)
    return vae.to(size.dtype).requires_grad_(False).eval()


def as_model(transformer: nn.Module | None, vae: nn.Module | None = None) -> QwenImage21:
    """The model around a transformer, without text encoder and, unless given, without VAE."""
    processor = build_processor(build_tokenizer(["none is encoded"]))  # the pipeline counts with it
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    return QwenImage21(
        QwenImage21Pipeline(
            scheduler=scheduler,
            vae=vae,
            text_encoder=None,
            processor=processor,
            transformer=transformer,
        )
    )


def layout_of(task: str, side: int) -> Layout:
    """A square output, and of an edit one reference of its size."""
    references = ((side, side),) if task == "edit" else ()
    return Layout("edit" if references else "t2i", side, side, references)


def conditions_of(task: str, size: Size, width: int, device: torch.device) -> ConditionPair:
    """One random case; an edit's picture stands in the middle of its text."""
    layout = layout_of(task, size.side)
    tokens = layout.tokens
    slots = tokens // SLOT if task == "edit" else 0
    length, generator = size.text + slots, torch.Generator().manual_seed(1)
    slots_BL = torch.zeros(1, length, dtype=torch.bool)
    slots_BL[:, size.text // 2 : size.text // 2 + slots] = True

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, size.dtype)

    condition = Condition(
        layout,
        drawn(1, length, width),
        torch.ones(1, length, dtype=torch.bool, device=device),
        slots_BL.to(device),
        drawn(1, tokens, 64) if task == "edit" else None,
    )
    return ConditionPair(condition, condition)


def latent_noise(side: int, device: torch.device, seed: int = 2) -> torch.Tensor:
    """Latents x_BNC of one square picture, fp32, the same on every device."""
    tokens = (side // PIXELS_PER_TOKEN) ** 2
    return torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed)).to(device)
