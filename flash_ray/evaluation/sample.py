"""Has a model answer a benchmark: the same encoded cases and the same noise for every sampler."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.models.base import PIXELS_PER_TOKEN, ConditionPair, Model
from flash_ray.models.loading import dtype_of, load_model, own_sigmas
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task, TeacherDefaults, sigma_schedule
from flash_ray.recipe.sizes import aspect_problem, size_problem

BATCH_TOKENS = 256  # latent tokens of a batch: one picture of 256x256 pixels, 16 of 64x64


def teacher_sampler(recipe: Recipe) -> SamplerConfig:
    """The base as its checkpoint says that it is sampled, guided as the recipe's teachers are.

    Raises:
        UserError: the checkpoint cannot be read, or is not sampled by Euler's method.
    """
    return _guided(recipe.teacher_defaults, own_sigmas(recipe.base), scheduled=True)


def untrained_samplers(recipe: Recipe) -> list[SamplerConfig]:
    """How the base can spend the student's evaluations: at even sigmas that its scheduler shifts,
    or at the student's own; and with guidance at half as many steps of either kind."""
    student, defaults = recipe.student, recipe.teacher_defaults
    even = SamplerConfig(tuple(sigma_schedule(student.steps)), scheduled=True)
    samplers = [even, student_sampler(student.rungs)]
    if (half := student.steps // 2) and defaults.guidance_scale != 1.0:
        samplers.append(_guided(defaults, sigma_schedule(half), scheduled=True))
        samplers.append(_guided(defaults, sigma_schedule(half, student.timestep_shift)))
    return samplers


def student_sampler(sigmas: Sequence[float]) -> SamplerConfig:
    """A student at the sigmas that it was trained for, unguided."""
    return SamplerConfig(tuple(sigmas))


def load_base(recipe: Recipe, dtype: torch.dtype | None = None) -> Model:
    """Loads the recipe's base with its encoders, on the GPU if the recipe's workers have one.

    Args:
        dtype: of the weights; None for the recipe's precision.

    Raises:
        UserError: there is no such base.
    """
    import diffusers
    import transformers

    # Their bars would tear ours.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if recipe.runtime.gpu else "cpu"
    return load_model(recipe.base, dtype or dtype_of(recipe), device, encoders=True)


@dataclass(frozen=True)
class EncodedBatch:
    """Encoded cases of one layout and the noise that every sampler starts from."""

    cases: tuple[Case, ...]
    conditions: ConditionPair
    noise_BNC: Tensor


def encode_cases(model: Model, cases: Sequence[Case]) -> list[EncodedBatch]:
    """Encodes the cases of one task, once for all samplers, in order.

    A row's result depends a little on how its batch is padded, so the batches depend on the cases
    only: neighbors with pictures of the same sizes share one.

    Raises:
        UserError: a case has a size that cannot be drawn, or a picture that is too long.
    """
    for case in cases:
        _validate_sizes(case)
    return [_encode(model, part) for part in case_batches(cases)]


def sample_cases(
    model: Model,
    batches: Sequence[EncodedBatch],
    transformer: nn.Module,
    sampler: SamplerConfig,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Samples pictures of all cases in order, each uint8 (H, W, 3).

    Args:
        progress: called with the number of evaluations done since the last call, counted in
            pictures x NFE.
    """
    images: list[np.ndarray] = []
    device = next(transformer.parameters()).device
    for batch in batches:
        evaluations = len(batch.cases) * sampler.nfe // len(sampler.sigmas)  # of one step

        def step_done(done: int, steps: int, evaluations: int = evaluations) -> None:
            if progress:
                progress(evaluations)

        x_BNC = sample(
            model,
            transformer,
            batch.conditions.to(device),
            batch.noise_BNC.to(device),
            sampler,
            step_done,
        )
        images += list(model.to_images(x_BNC, batch.conditions.layout))
    return images


@dataclass(frozen=True)
class EncodedBenchmark:
    """Encoded cases by task; made by `encode_benchmark`, pickled."""

    batches: Mapping[Task, Sequence[EncodedBatch]]

    def cases(self, task: Task) -> list[Case]:
        """The cases of a task, in the order of their pictures."""
        return [case for batch in self.batches[task] for case in batch.cases]

    def images(
        self, model: Model, transformer: nn.Module, sampler: SamplerConfig
    ) -> dict[Task, list[np.ndarray]]:
        """Samples a transformer's pictures for each task, each uint8 (H, W, 3).

        Args:
            model: the base, which decodes them; its encoders and transformer are not used.
        """
        return {
            task: sample_cases(model, batches, transformer, sampler)
            for task, batches in self.batches.items()
        }


def encode_benchmark(model: Model, cases: Mapping[Task, Sequence[Case]]) -> EncodedBenchmark:
    """Encodes cases by task, as `first_cases` gives them."""
    return EncodedBenchmark({task: encode_cases(model, of_task) for task, of_task in cases.items()})


def _guided(
    defaults: TeacherDefaults, sigmas: Sequence[float], scheduled: bool = False
) -> SamplerConfig:
    return SamplerConfig(
        tuple(sigmas), defaults.guidance_scale, defaults.guidance_rescale, scheduled
    )


def case_batches(cases: Sequence[Case]) -> Iterator[tuple[Case, ...]]:
    """Runs of cases that share a layout, of at most BATCH_TOKENS latent tokens."""
    for (size, _), group in groupby(cases, key=_sizes):
        tokens = (size[0] // PIXELS_PER_TOKEN) * (size[1] // PIXELS_PER_TOKEN)
        rows, members = max(1, BATCH_TOKENS // tokens), tuple(group)
        yield from (members[i : i + rows] for i in range(0, len(members), rows))


def _validate_sizes(case: Case) -> None:
    if problem := size_problem(case.size):
        raise UserError(f"benchmark: case {case.id} is of {problem}; correct it")
    for reference in case.references:
        if problem := aspect_problem((reference.height, reference.width)):
            raise UserError(f"benchmark: case {case.id} has a picture of {problem}")


def _sizes(case: Case) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    return case.size, tuple(reference.size for reference in case.references)


def _encode(model: Model, cases: tuple[Case, ...]) -> EncodedBatch:
    references = [list(case.references) for case in cases] if cases[0].references else None
    conditions = model.encode([case.prompt for case in cases], references, cases[0].size)
    tokens = conditions.layout.tokens
    noise_BNC = torch.stack([_noise(case, tokens, model.latent_channels) for case in cases])
    return EncodedBatch(cases, conditions.to("cpu"), noise_BNC)


def _noise(case: Case, tokens: int, channels: int) -> Tensor:
    # On the CPU, so that the noise is the same whatever device the model is on.
    return torch.randn(tokens, channels, generator=torch.Generator().manual_seed(case.seed))
