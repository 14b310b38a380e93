"""Random numbers of a run, by seed and label: the same for any number of workers, and on resume.

Every row of a micro-batch has numbers of its own, whichever worker draws them; no generator lives
on between iterations, so there is no random state to keep.
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
    shape = (batch.conditions.layout.tokens, channels)
    rows = range(batch.size)[batch.rows]
    return torch.stack([torch.randn(shape, generator=generator(*labels, row)) for row in rows])
