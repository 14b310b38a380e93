"""Few-step and many-step sampling: schedules of sigmas and the Euler sampler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flash_ray.methods.flow import VelocityFn, euler
from flash_ray.methods.guidance import guided_velocity
from flash_ray.models.base import ConditionPair, Model, PromptCache


@dataclass(frozen=True)
class SamplerConfig:
    """How a model is sampled.

    Args:
        sigmas: descending in (0, 1], without the terminal 0; one Euler step each.
        guidance_scale: 1 is unguided; any other scale asks the transformer twice a step.
        guidance_rescale: whether guided velocities keep the conditional one's norm per token.
    """

    sigmas: tuple[float, ...]
    guidance_scale: float = 1.0
    guidance_rescale: bool = True

    @property
    def nfe(self) -> int:
        """Evaluations of the transformer for one picture."""
        return len(self.sigmas) * (1 if self.guidance_scale == 1.0 else 2)

    @property
    def title(self) -> str:
        """The sampler in words, for tables, e.g. "40 guided steps"."""
        kind = "" if self.guidance_scale == 1.0 else "guided "
        return f"{len(self.sigmas)} {kind}steps"


def guided(
    backbone: Model,
    transformer: nn.Module,
    conditioned: ConditionPair,
    guidance: float = 1.0,
    rescale: bool = True,
) -> VelocityFn:
    """The velocity under guidance, as a function of (z_BNC, t_B), with prefill prefixes.

    Guidance 1.0 asks the transformer once a call, any other scale twice. The prefixes hold for as
    long as the weights do.
    """
    prefix, negative_prefix = PromptCache(), PromptCache()

    def velocity(z_BNC: Tensor, t_B: Tensor) -> Tensor:
        v_BNC = backbone.velocity(transformer, z_BNC, t_B, conditioned.positive, prefix)
        if guidance == 1.0:
            return v_BNC
        v_uncond = backbone.velocity(transformer, z_BNC, t_B, conditioned.negative, negative_prefix)
        return guided_velocity(v_BNC, v_uncond, guidance, rescale)

    return velocity


@torch.no_grad()
def sample(
    backbone: Model,
    transformer: nn.Module,
    conditioned: ConditionPair,
    noise_BNC: Tensor,
    sigmas: Sequence[float],
    guidance: float = 1.0,
    rescale: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples latents x_BNC from noise_BNC ~ N(0, 1).

    Args:
        sigmas: descending in (0, 1], without the terminal 0; one Euler step each.
        guidance, rescale: see `guided`; NFE = len(sigmas), twice that under guidance.
        progress: called with (steps done, steps in all) after each step.
    """
    velocity = guided(backbone, transformer, conditioned, guidance, rescale)
    ends = [*sigmas, 0.0]
    z_BNC = noise_BNC
    for i in range(len(sigmas)):
        z_BNC = euler(velocity, z_BNC, ends[i : i + 2])
        if progress:
            progress(i + 1, len(sigmas))
    return z_BNC
