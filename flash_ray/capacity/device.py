"""What one process holds on its GPU: all the time by role, and for a while by phase."""

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Held:
    """Bytes that a network holds as long as its process lives.

    Args:
        optimizer: weights in fp32, and Adam's moments.
        average: the EMA of the weights.
        buffers: of communication.
    """

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    buffers: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Phase:
    """Bytes that are there in a part of the work, beside what networks hold.

    Args:
        activations: kept for a backward pass, and at work in one layer.
        caches: keys and values of texts and references.
        coding: of the VAE or the text encoder at work.
        training: gradients on their way, and what a step or a gathering takes.
    """

    activations: float = 0.0
    caches: float = 0.0
    coding: float = 0.0
    training: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the GPU of one process, or in the memory of one without a GPU.

    Args:
        held: by role.
        phases: what is there beside all that, by phase; one ends before the next begins.
        other: of CUDA and its allocator.
        loading: before training starts, all together.
    """

    held: Mapping[str, Held]
    phases: Mapping[str, Phase]
    other: float = 0.0
    loading: float = 0.0

    @property
    def resident(self) -> float:
        """What is there all the time."""
        return sum(each.total for each in self.held.values()) + self.other

    @property
    def total(self) -> float:
        """The most that is ever there."""
        most = max((phase.total for phase in self.phases.values()), default=0.0)
        return max(self.resident + most, self.loading)
