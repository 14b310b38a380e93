"""Draws pictures: conditions encoded once, rows of one batch that do not change each other.

The same model, prompt, pictures, seed and size give the same picture to 1/255, whatever the batch,
in fp32 on a CPU. A GPU's kernels are chosen by the size of the batch and round differently: in bf16
that can show, as single pixels a few levels off.
"""

import hashlib
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flash_ray.evaluation.sample import load_base
from flash_ray.methods.base import VelocityFn
from flash_ray.methods.flow import euler, velocity_to_x
from flash_ray.models.base import (
    Condition,
    ConditionPair,
    DrawsAlpha,
    Layout,
    Model,
    PromptCache,
)
from flash_ray.models.prompt_cache import join, prefill, size_of, split
from flash_ray.models.sampling import SamplerConfig, guide, velocity_under
from flash_ray.recipe import Recipe
from flash_ray.serving.batching import Lru


@dataclass(frozen=True)
class Prompt:
    """What a picture is conditioned on.

    Args:
        references: the pictures to edit, as PNG bytes; none for text to image.
        size: (height, width) of the output in pixels.
    """

    text: str
    references: tuple[bytes, ...]
    size: tuple[int, int]

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        hashed = hashlib.sha256(repr((self.text, self.size)).encode())
        for reference in self.references:
            hashed.update(hashlib.sha256(reference).digest())
        return hashed.hexdigest()


@dataclass(frozen=True)
class EncodedPrompt:
    """The condition of one picture and its negative, under the prompt's digest."""

    digest: str
    conditions: ConditionPair

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of the text, with its template, and of the references."""
        condition = self.conditions.positive
        text = int((condition.mask_BL & ~condition.slots_BL).sum())
        references = condition.references_BNC
        return text, 0 if references is None else references.shape[1]


@dataclass(frozen=True)
class LoadedModel:
    """A transformer in memory; `digest` names its weights."""

    digest: str
    transformer: nn.Module


@dataclass(frozen=True)
class Encoding:
    """Encoded prompts in their order, the seconds it took, and how many were cached or not."""

    prompts: list[EncodedPrompt]
    seconds: float
    hits: int
    misses: int


@dataclass(frozen=True)
class Sampling:
    """Pictures, uint8 (B, H, W, 3), or 4 with alpha, the seconds of both stages, prompt caches kept
    or not."""

    pictures_BHWC: np.ndarray
    denoise_s: float
    decode_s: float
    hits: int
    misses: int


@dataclass(frozen=True)
class Watcher:
    """Who wants to see a picture before it is done: after which steps, counted from 1, and how."""

    steps: frozenset[int]
    show: Callable[[np.ndarray], None]


def between(steps: int, wanted: int) -> frozenset[int]:
    """At most that many of the steps before the last one, evenly spaced."""
    return frozenset(round(steps * part / (wanted + 1)) for part in range(1, wanted + 1)) - {
        0,
        steps,
    }


class Engine:
    """One base's encoders and decoder, and what is worth keeping between batches.

    Args:
        condition_bytes: memory for encoded prompts.
        prompt_cache_bytes: memory for the keys and values of their texts and pictures, under the
            models that were asked; None: for two prompts at least.
    """

    def __init__(self, base: Model, condition_bytes: int, prompt_cache_bytes: int | None):
        self.base = base
        self.conditions: Lru[ConditionPair] = Lru(condition_bytes, _bytes_of)
        self.prompt_caches: Lru[PromptCache] = Lru(prompt_cache_bytes, size_of)

    @property
    def device(self) -> torch.device:
        """The device of the base's weights."""
        return next(self.base.transformer.parameters()).device

    @torch.inference_mode()
    def encode(self, prompts: Sequence[Prompt]) -> Encoding:
        """Encodes prompts of one size and one shape of references, each as if alone."""
        start = time.perf_counter()
        digests = [prompt.digest for prompt in prompts]
        cached = {digest: self.conditions.get(digest) for digest in digests}
        missing = {
            digest: prompt
            for digest, prompt in zip(digests, prompts, strict=True)
            if cached[digest] is None
        }
        misses = sum(digest in missing for digest in digests)
        known = {digest: pair for digest, pair in cached.items() if pair is not None}
        encoded = dict(zip(missing, self._encode(list(missing.values())), strict=True))
        for digest, conditions in encoded.items():
            self.conditions.put(digest, conditions)
        known |= encoded
        self._finish()
        return Encoding(
            [EncodedPrompt(digest, known[digest]) for digest in digests],
            time.perf_counter() - start,
            hits=len(prompts) - misses,
            misses=misses,
        )

    @torch.inference_mode()
    def sample(
        self,
        model: LoadedModel,
        sampler: SamplerConfig,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[int],
        alpha: bool = False,
        watchers: Sequence[Watcher | None] = (),
    ) -> Sampling:
        """Draws a picture of each prompt from the noise of its seed; the prompts share a layout.

        Args:
            alpha: whether pictures keep the alpha channel that the base draws.
            watchers: of each picture, or of none.
        """
        start = time.perf_counter()
        layout = prompts[0].conditions.layout
        x_BNC = self._noise(seeds, layout)
        positive = _CachedVelocity(self, model, prompts, negative=False)
        negative = _CachedVelocity(self, model, prompts, negative=True)
        velocity = guide(positive, negative, sampler)
        if any(watchers):
            velocity = self._watched(velocity, watchers, layout, alpha)
        x_BNC = euler(velocity, x_BNC, sampler.levels(self.base, layout))
        self._finish()
        denoised = time.perf_counter()
        pictures = self._pictures(x_BNC, layout, alpha)
        return Sampling(
            pictures,
            denoise_s=denoised - start,
            decode_s=time.perf_counter() - denoised,
            hits=positive.hits + negative.hits,
            misses=positive.misses + negative.misses,
        )

    def _finish(self) -> None:
        """Waits for the device, which works on after a call returns: else the next stage pays."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _encode(self, prompts: Sequence[Prompt]) -> list[ConditionPair]:
        if not prompts:
            return []
        references: list[list[Image.Image]] = [
            [Image.open(BytesIO(data)) for data in prompt.references] for prompt in prompts
        ]
        conditions = self.base.encode(
            [prompt.text for prompt in prompts],
            references if references[0] else None,
            prompts[0].size,
        )
        return [conditions.rows([row]).trimmed() for row in range(len(prompts))]

    def _watched(
        self,
        velocity: VelocityFn,
        watchers: Sequence[Watcher | None],
        layout: Layout,
        alpha: bool,
    ) -> VelocityFn:
        """The velocity, that shows on the way what it says of the pictures."""
        steps = count(1)

        def watched(z_BNC: Tensor, t_B: Tensor) -> Tensor:
            v_BNC, step = velocity(z_BNC, t_B), next(steps)
            rows = [row for row, one in enumerate(watchers) if one and step in one.steps]
            if rows:
                x_BNC = velocity_to_x(z_BNC[rows], t_B[rows], v_BNC[rows])
                for row, picture in zip(rows, self._pictures(x_BNC, layout, alpha), strict=True):
                    if watcher := watchers[row]:
                        watcher.show(picture)
            return v_BNC

        return watched

    def _pictures(self, x_BNC: Tensor, layout: Layout, alpha: bool) -> np.ndarray:
        if alpha and isinstance(self.base, DrawsAlpha):
            return self.base.to_rgba(x_BNC, layout)
        return self.base.to_images(x_BNC, layout)

    def _noise(self, seeds: Sequence[int], layout: Layout) -> Tensor:
        # On the CPU, so that a seed means the same noise on every device, as in evaluations.
        shape = (layout.tokens, self.base.latent_channels)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(drawn).to(self.device)


def load_engine(recipe: Recipe, condition_bytes: int, prompt_cache_bytes: int | None) -> Engine:
    """Loads an engine of the recipe's base: on a GPU in its precision, on a CPU in fp32.

    Raises:
        UserError: there is no such base.
    """
    dtype = None if recipe.runtime.gpu else torch.float32
    return Engine(load_base(recipe, dtype), condition_bytes, prompt_cache_bytes)


class _CachedVelocity:
    """The velocity under a batch's positive or negative conditions, each as if its row were alone.

    The first call fills the prompt caches that are missing; those that follow use them.
    """

    def __init__(
        self, engine: Engine, model: LoadedModel, prompts: Sequence[EncodedPrompt], negative: bool
    ):
        self._engine, self._model = engine, model
        self._prompts, self._is_negative = prompts, negative
        self._decode: VelocityFn | None = None
        self.hits = self.misses = 0

    def __call__(self, z_BNC: Tensor, t_B: Tensor) -> Tensor:
        return self._decode(z_BNC, t_B) if self._decode else self._first(z_BNC, t_B)

    def _first(self, z_BNC: Tensor, t_B: Tensor) -> Tensor:
        base, transformer = self._engine.base, self._model.transformer
        rows = [self._condition(prompt).to(self._engine.device) for prompt in self._prompts]
        keys = [self._key(prompt) for prompt in self._prompts]
        condition = Condition.cat(rows)
        cached = {key: self._engine.prompt_caches.get(key) for key in keys}
        caches = {key: cache for key, cache in cached.items() if cache is not None}
        self.hits = sum(key in caches for key in keys)
        self.misses = len(keys) - self.hits
        if not self.hits and condition.mask_BL.all():
            # Nothing is padded, so the step that fills the cache is a step of the sampler too.
            cache = PromptCache()
            v_BNC = base.velocity(transformer, z_BNC, t_B, condition, cache)
            self._keep(keys, cache, condition)
            self._decode = velocity_under(base, transformer, condition, cache)
            return v_BNC
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in caches}
        if missing:
            unfilled = Condition.cat(list(missing.values()))
            caches |= self._keep(list(missing), prefill(base, transformer, unfilled), unfilled)
        joined = join(transformer, [caches[key] for key in keys])
        self._decode = velocity_under(base, transformer, condition, joined)
        return self._decode(z_BNC, t_B)

    def _condition(self, prompt: EncodedPrompt) -> Condition:
        return prompt.conditions.negative if self._is_negative else prompt.conditions.positive

    def _key(self, prompt: EncodedPrompt) -> Hashable:
        condition = self._condition(prompt)
        # Without references every negative is the same empty prompt.
        is_empty = self._is_negative and condition.references_BNC is None
        content = condition.layout if is_empty else prompt.digest
        return self._model.digest, self._is_negative, content

    def _keep(
        self, keys: Sequence[Hashable], cache: PromptCache, condition: Condition
    ) -> dict[Hashable, PromptCache]:
        rows = dict(zip(keys, split(cache, condition), strict=True))
        for key, row in rows.items():
            self._engine.prompt_caches.put(key, row)
        return rows


def _bytes_of(conditions: ConditionPair) -> int:
    pair = (conditions.positive, conditions.negative)
    return sum(tensor.nbytes for condition in pair for tensor in condition.tensors().values())
