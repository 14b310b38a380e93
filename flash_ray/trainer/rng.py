"""Random numbers of a run, by seed and label: the same for any number of workers, and on resume.

They are drawn for the whole micro-batch, of which each worker takes its rows; no generator lives on
between iterations, so there is no random state to keep.
"""

import hashlib

import torch
from torch import Tensor

from flash_ray.data.stream import MicroBatch


def generator(*labels: object) -> torch.Generator:
    """A CPU generator whose numbers depend on the labels only."""
    digest = hashlib.sha256(repr(labels).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def noise(batch: MicroBatch, channels: int, *labels: object) -> Tensor:
    """This worker's rows of N(0, 1) latents, (rows, N, channels), fp32, on the CPU."""
    shape = (batch.size, batch.conditions.layout.tokens, channels)
    return torch.randn(shape, generator=generator(*labels))[batch.rows]
