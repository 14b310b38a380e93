"""Bytes that coding takes for a while: prompts by the text encoder, pictures by the VAE."""

from collections.abc import Sequence

from flash_ray.capacity.device import Phase
from flash_ray.capacity.pipeline import Pipeline, Vae
from flash_ray.capacity.workload import TaskTokens
from flash_ray.models.vae import at_once

# Bytes for each pixel in bf16, of the released VAE: 7.0 and 2.4 GB for 1024 x 1024, on an H100.
DECODE_BYTES, ENCODE_BYTES = 6700.0, 2300.0
PROMPTS, SLOT = 16, 4  # prompts encoded at once; latent tokens of one of the encoder's


def decoding(pipeline: Pipeline, resolution: tuple[int, int], value: int) -> Phase:
    """Pictures from latents, as many as are decoded at once; `value` is a weight's bytes."""
    widths = pipeline.vae.decoder_width / Vae.decoder_width
    return Phase(coding=_coded(pipeline, resolution, value, DECODE_BYTES * widths))


def encoding(
    pipeline: Pipeline, resolution: tuple[int, int], value: int, tasks: Sequence[TaskTokens]
) -> dict[str, Phase]:
    """Cases: pictures by the VAE, prompts by the text encoder, whose states are all kept."""
    encoder, (height, width) = pipeline.text_encoder, resolution
    states = encoder.vocabulary + (encoder.layers + 1) * encoder.width
    tokens = 0.0
    for task in tasks:
        shown = task.reference_tokens > 0
        rows = min(PROMPTS, at_once(height * width)) if shown else PROMPTS
        tokens = max(tokens, rows * (task.text_tokens + task.reference_tokens / SLOT))
    phases = {"prompts encoded": Phase(coding=value * tokens * states)}
    if any(task.reference_tokens for task in tasks):
        pixel = ENCODE_BYTES * pipeline.vae.width / Vae.width
        phases["pictures encoded"] = Phase(coding=_coded(pipeline, resolution, value, pixel))
    return phases


def _coded(
    pipeline: Pipeline, resolution: tuple[int, int], value: int, pixel_bytes: float
) -> float:
    """Bytes of coding as many pictures as are coded at once, each pixel `pixel_bytes` in bf16."""
    height, width = resolution
    pixels = height * width * at_once(height * width) / pipeline.vae.patch**2
    return pixels * pixel_bytes * value / 2
