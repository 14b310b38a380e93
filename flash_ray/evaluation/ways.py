"""The ways to answer a bench that are compared: the teacher, the teacher at 4, the student."""

from collections.abc import Sequence
from dataclasses import dataclass

import diffusers
import torch
import transformers
from torch import nn

from flash_ray.backbones.base import Backbone
from flash_ray.backbones.load import load_backbone
from flash_ray.backbones.sampling import schedule
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Teaching

TEACHER_STEPS = 40


@dataclass(frozen=True)
class Way:
    """A transformer and how it is sampled.

    Args:
        title: in words, for tables, e.g. "40 guided steps".
        sigmas: descending in (0, 1], without the terminal 0.
        guidance: 1 is unguided; any other scale asks the transformer twice a step.
    """

    title: str
    transformer: nn.Module
    sigmas: Sequence[float]
    guidance: float = 1.0
    rescale: bool = True

    @property
    def nfe(self) -> int:
        """Evaluations of the transformer for one picture."""
        return len(self.sigmas) * (1 if self.guidance == 1.0 else 2)


def teacher(backbone: Backbone, settings: Teaching) -> list[Way]:
    """The base model in 40 evenly spaced steps, guided as the recipe's teachers are: 80 NFE."""
    return [_guided(backbone, settings, TEACHER_STEPS)]


def teacher_at_4(backbone: Backbone, settings: Teaching) -> list[Way]:
    """The base model's ways to spend 4 evaluations: 4 unguided steps or 2 guided ones."""
    unguided = Way("4 unguided steps", backbone.transformer, schedule(4))
    return [unguided] if settings.guidance == 1.0 else [unguided, _guided(backbone, settings, 2)]


def student(transformer: nn.Module, sigmas: Sequence[float]) -> Way:
    """A student at its own sigmas, unguided."""
    return Way(f"{len(sigmas)} steps", transformer, sigmas)


def weights_dtype(recipe: Recipe) -> torch.dtype:
    """What the recipe's models are loaded as."""
    return torch.bfloat16 if recipe.optimisation.precision == "bf16" else torch.float32


def load_base(recipe: Recipe, dtype: torch.dtype | None = None) -> Backbone:
    """The recipe's base with its encoders, on the GPU if the recipe's workers have one.

    Args:
        dtype: of the weights; None for the recipe's precision.

    Raises:
        UserError: there is no such base.
    """
    # Their bars would tear ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if recipe.runtime.gpu else "cpu"
    return load_backbone(recipe.base, dtype or weights_dtype(recipe), device, encoders=True)


def _guided(backbone: Backbone, settings: Teaching, steps: int) -> Way:
    return Way(
        f"{steps} {'unguided' if settings.guidance == 1.0 else 'guided'} steps",
        backbone.transformer,
        schedule(steps),
        settings.guidance,
        settings.rescale,
    )
