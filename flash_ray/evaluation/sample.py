"""Has a model answer a benchmark: the same encoded cases and the same noise for every sampler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor, nn

from flash_ray.methods.flow import schedule
from flash_ray.miniature.benchmark import Case, cases, source_image
from flash_ray.models.base import ConditionPair, Model
from flash_ray.models.loading import dtype_of, load_decoder, load_model
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import TeacherDefaults

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


def teacher(backbone: Model, settings: TeacherDefaults) -> list[Way]:
    """The base model in 40 evenly spaced steps, guided as the recipe's teachers are: 80 NFE."""
    return [_guided(backbone, settings, TEACHER_STEPS)]


def teacher_at_4(backbone: Model, settings: TeacherDefaults) -> list[Way]:
    """The base model's ways to spend 4 evaluations: 4 unguided steps or 2 guided ones."""
    unguided = Way("4 unguided steps", backbone.transformer, schedule(4))
    return (
        [unguided] if settings.guidance_scale == 1.0 else [unguided, _guided(backbone, settings, 2)]
    )


def student(transformer: nn.Module, sigmas: Sequence[float]) -> Way:
    """A student at its own sigmas, unguided."""
    return Way(f"{len(sigmas)} steps", transformer, sigmas)


def load_base(recipe: Recipe, dtype: torch.dtype | None = None) -> Model:
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
    return load_model(recipe.base, dtype or dtype_of(recipe), device, encoders=True)


def _guided(backbone: Model, settings: TeacherDefaults, steps: int) -> Way:
    return Way(
        f"{steps} {'unguided' if settings.guidance_scale == 1.0 else 'guided'} steps",
        backbone.transformer,
        schedule(steps),
        settings.guidance_scale,
        settings.guidance_rescale,
    )


# Latent tokens of one batch: 64 pictures of 64x64 pixels, one of 512x512 or more.
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Batch:
    """Encoded questions of one layout and the noise that every way starts from."""

    cases: tuple[Case, ...]
    conditioned: ConditionPair
    noise_BNC: Tensor


def encode_cases(
    backbone: Model, cases: Sequence[Case], size: tuple[int, int] = (64, 64)
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
    backbone: Model,
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
            SamplerConfig(tuple(way.sigmas), way.guidance, way.rescale),
            stepped,
        )
        pictures.append(backbone.to_images(x_BNC, batch.conditioned.layout))
    return np.concatenate(pictures)


def _encode(backbone: Model, cases: tuple[Case, ...], size: tuple[int, int], tokens: int) -> Batch:
    edits = cases[0].bench == "edit"
    references = [[source_image(case)] for case in cases] if edits else None
    conditioned = backbone.encode([case.prompt for case in cases], references, size)
    noise_BNC = torch.stack([_noise(case, tokens, backbone.latent_channels) for case in cases])
    return Batch(cases, conditioned.to("cpu"), noise_BNC)


def _noise(case: Case, tokens: int, channels: int) -> Tensor:
    # On the CPU, so that the noise is the same whatever device the model is on.
    return torch.randn(tokens, channels, generator=torch.Generator().manual_seed(case.seed))


@dataclass(frozen=True)
class EncodedBenchmark:
    """Encoded cases by bench, and what decodes the answers; made by `encode_benchmark`."""

    base: str
    dtype: torch.dtype
    batches: Mapping[str, Sequence[Batch]]

    def cases(self, bench: str) -> list[Case]:
        return [case for batch in self.batches[bench] for case in batch.cases]

    def answers(self, transformer: nn.Module, sigmas: Sequence[float]) -> dict[str, np.ndarray]:
        """A student's pictures for each bench, uint8 (cases, H, W, 3)."""
        way = student(transformer, sigmas)
        return {bench: answer(self._backbone, own, way) for bench, own in self.batches.items()}

    @cached_property
    def _backbone(self) -> Model:
        # Of the base only what decodes: the transformer is the one that is asked.
        return load_decoder(self.base, self.dtype)


def encode_benchmark(
    recipe: Recipe, backbone: Model, per_category: Mapping[str, int]
) -> EncodedBenchmark:
    """The first cases of each category, as many as `per_category` says by bench."""
    batches = {
        bench: encode_cases(backbone, cases(bench, count)) for bench, count in per_category.items()
    }
    return EncodedBenchmark(recipe.base, dtype_of(recipe), batches)
