"""Few-step and many-step sampling: how a model is sampled, and the Euler sampler."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flash_ray.methods.base import VelocityFn
from flash_ray.methods.flow import euler
from flash_ray.methods.guidance import guided_velocity
from flash_ray.models.base import Condition, ConditionPair, Layout, Model, PromptCache


@dataclass(frozen=True)
class SamplerConfig:
    """How a model is sampled.

    Args:
        sigmas: descending in (0, 1], without the terminal 0; one Euler step each.
        scheduled: whether the checkpoint's scheduler shifts them for the size of the picture, as it
            does with the `sigmas` of a call of its pipeline.
        guidance_scale: 1 is unguided; any other scale asks the transformer twice a step.
        guidance_rescale: whether guided velocities keep the conditional one's norm per token.
    """

    sigmas: tuple[float, ...]
    guidance_scale: float = 1.0
    guidance_rescale: bool = True
    scheduled: bool = False

    @property
    def nfe(self) -> int:
        """Evaluations of the transformer for one picture."""
        return len(self.sigmas) * (1 if self.guidance_scale == 1.0 else 2)

    @property
    def title(self) -> str:
        """The sampler in words, for tables, e.g. "40 guided steps" or, at sigmas that are not the
        checkpoint's, "2 steps at 1, 0.667"."""
        kind = "" if self.guidance_scale == 1.0 else "guided "
        own = "" if self.scheduled else " at " + ", ".join(f"{s:.3g}" for s in self.sigmas)
        return f"{len(self.sigmas)} {kind}steps{own}"

    def levels(self, model: Model, layout: Layout) -> list[float]:
        """The noise levels of the steps for pictures of a layout, with the 0 at the end."""
        sigmas = model.scheduled(self.sigmas, layout) if self.scheduled else self.sigmas
        return [*sigmas, 0.0]


def guide(positive: VelocityFn, negative: VelocityFn, sampler: SamplerConfig | None) -> VelocityFn:
    """Joins the velocities under a condition and its negative as the sampler's guidance says.

    Without guidance, and without a sampler, it is the first, and the second is never asked.
    """
    if sampler is None or sampler.guidance_scale == 1.0:
        return positive
    scale, rescale = sampler.guidance_scale, sampler.guidance_rescale

    def velocity(z_BNC: Tensor, t_B: Tensor) -> Tensor:
        return guided_velocity(positive(z_BNC, t_B), negative(z_BNC, t_B), scale, rescale)

    return velocity


def velocity_of(
    model: Model,
    transformer: Callable[..., Any],
    conditions: ConditionPair,
    sampler: SamplerConfig | None = None,
) -> VelocityFn:
    """The velocity under the sampler's guidance, as a function of (z_BNC, t_B).

    Without guidance, and without a sampler, the transformer is asked once a call, else twice. The
    prompts' keys and values are computed at the first call, and hold for as long as the weights do.
    """
    return guide(
        velocity_under(model, transformer, conditions.positive, PromptCache()),
        velocity_under(model, transformer, conditions.negative, PromptCache()),
        sampler,
    )


def velocity_under(
    model: Model,
    transformer: Callable[..., Any],
    condition: Condition,
    cache: PromptCache | None,
) -> VelocityFn:
    """The velocity under one condition, as a function of (z_BNC, t_B).

    Args:
        cache: None keeps nothing for another call.
    """
    return lambda z_BNC, t_B: model.velocity(transformer, z_BNC, t_B, condition, cache)


@torch.no_grad()
def sample(
    model: Model,
    transformer: nn.Module,
    conditions: ConditionPair,
    noise_BNC: Tensor,
    sampler: SamplerConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples latents x_BNC from noise_BNC ~ N(0, 1) by Euler's method.

    Args:
        progress: called with (steps done, steps in all) after each step.
    """
    velocity = velocity_of(model, transformer, conditions, sampler)
    sigmas = sampler.levels(model, conditions.layout)
    z_BNC = noise_BNC
    for i in range(len(sampler.sigmas)):
        z_BNC = euler(velocity, z_BNC, sigmas[i : i + 2])
        if progress:
            progress(i + 1, len(sampler.sigmas))
    return z_BNC
