"""Has a model answer a bench: the same encoded questions and the same noise for every way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flash_ray.backbones.base import Backbone, Conditioned
from flash_ray.backbones.sampling import sample
from flash_ray.evaluation.ways import Way
from flash_ray.miniature.bench import Case, source_image

# Latent tokens of one batch: 64 pictures of 64x64 pixels, one of 512x512 or more.
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Batch:
    """Encoded questions of one layout and the noise that every way starts from."""

    cases: tuple[Case, ...]
    conditioned: Conditioned
    noise_BNC: Tensor


def encode_cases(
    backbone: Backbone, cases: Sequence[Case], size: tuple[int, int] = (64, 64)
) -> list[Batch]:
    """Encodes the cases of one bench, once for all ways, in order.

    A row's result depends a little on how its batch is padded, so the batches are part of the
    question: they depend on the cases only.
    """
    tokens = (size[0] // 16) * (size[1] // 16)
    rows = max(1, BATCH_TOKENS // tokens)
    parts = [tuple(cases[i : i + rows]) for i in range(0, len(cases), rows)]
    return [_encode(backbone, part, size, tokens) for part in parts]


def answer(
    backbone: Backbone,
    batches: Sequence[Batch],
    way: Way,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Pictures of all cases in order, uint8 (cases, H, W, 3).

    Args:
        progress: called with the number of evaluations done since the last call, counted in
            pictures x NFE.
    """
    pictures = []
    device = next(way.transformer.parameters()).device
    for batch in batches:
        each = len(batch.cases) * way.nfe // len(way.sigmas)

        def stepped(done: int, steps: int, each: int = each) -> None:
            if progress:
                progress(each)

        x_BNC = sample(
            backbone,
            way.transformer,
            batch.conditioned.to(device),
            batch.noise_BNC.to(device),
            way.sigmas,
            way.guidance,
            way.rescale,
            stepped,
        )
        pictures.append(backbone.to_images(x_BNC, batch.conditioned.layout))
    return np.concatenate(pictures)


def _encode(
    backbone: Backbone, cases: tuple[Case, ...], size: tuple[int, int], tokens: int
) -> Batch:
    edits = cases[0].bench == "edit"
    references = [[source_image(case)] for case in cases] if edits else None
    conditioned = backbone.encode([case.prompt for case in cases], references, size)
    noise_BNC = torch.stack([_noise(case, tokens, backbone.latent_channels) for case in cases])
    return Batch(cases, conditioned.to("cpu"), noise_BNC)


def _noise(case: Case, tokens: int, channels: int) -> Tensor:
    # On the CPU, so that the noise is the same whatever device the model is on.
    return torch.randn(tokens, channels, generator=torch.Generator().manual_seed(case.seed))
