"""Codes pictures by the VAE of a pipeline that has Qwen-Image-2.1's, a few of them at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flash_ray.models.base import PIXELS_PER_TOKEN, Layout

# Coded at once, or one picture that has more: the VAE of Qwen-Image-2.1 takes 2.2 GiB for so many.
PIXELS = 2**20
# A picture that has more is decoded in tiles: whole, one of 2048x2048 takes 27 GB.
WHOLE = 3 * 2**19
TILE, STRIDE = 1024, 896  # pixels of a side; tiles are blended where they overlap


def at_once(pixels: int) -> int:
    """How many pictures of so many pixels are coded at once, 1 or more."""
    return max(1, PIXELS // pixels)


def kind(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a part of a pipeline; diffusers' own properties walk all modules."""
    parameter = next(module.parameters())
    return parameter.device, parameter.dtype


@torch.no_grad()
def to_latents(pipeline: Any, pixels_BCHW: Tensor) -> Tensor:
    """Packed latents x_BNC of preprocessed pictures, by the VAE's mean."""
    pixels_BCTHW = pixels_BCHW.unsqueeze(2).to(*kind(pipeline.vae))
    unused = torch.Generator()  # the pipeline takes the mean
    latents = torch.cat(
        [
            pipeline._encode_vae_image(part, unused)
            for part in pixels_BCTHW.split(at_once(pixels_BCHW[0, 0].numel()))
        ]
    )
    batch, channels, _, height, width = latents.shape
    packed: Tensor = pipeline._pack_latents(latents, batch, channels, height, width)
    return packed.contiguous()


@torch.no_grad()
def to_pixels(pipeline: Any, x_BNC: Tensor, layout: Layout) -> Tensor:
    """The pictures of packed latents as the VAE decodes them, (B, channels, H, W)."""
    vae = pipeline.vae
    latents = pipeline._unpack_latents(
        x_BNC.to(*kind(vae)), layout.height, layout.width, PIXELS_PER_TOKEN
    )
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    pixels = layout.height * layout.width
    with _tiled(vae, pixels > WHOLE):
        return torch.cat(
            [
                vae.decode(part * std + mean, return_dict=False)[0][:, :, 0]
                for part in latents.split(at_once(pixels))
            ]
        )


@contextmanager
def _tiled(vae: Any, wanted: bool) -> Iterator[None]:
    """Has a VAE code in tiles that are blended where they meet, for the block."""
    if wanted:
        vae.enable_tiling(TILE, TILE, STRIDE, STRIDE)
    try:
        yield
    finally:
        if wanted:
            vae.disable_tiling()
