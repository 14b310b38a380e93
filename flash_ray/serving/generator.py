"""The deployment that draws: one base in memory, a few students beside it, batches of equals."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import torch
from ray import serve
from torch import nn

from flash_ray.models.base import Layout
from flash_ray.recipe import Recipe
from flash_ray.serving.batching import Batcher
from flash_ray.serving.engine import (
    EncodedPrompt,
    LoadedModel,
    Prompt,
    Sampling,
    Watcher,
    between,
    load_engine,
)
from flash_ray.serving.images import encode
from flash_ray.serving.metrics import DrawingMetrics
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.outputs import cache_home
from flash_ray.storage.s3 import Store


@dataclass(frozen=True)
class PictureFile:
    """How pictures are encoded; `quality` is a JPEG's or a WebP's, 0 to 100, None for 100."""

    kind: Literal["png", "jpeg", "webp"] = "png"
    quality: int | None = None
    transparent: bool = False

    def encode(self, picture_HWC: np.ndarray) -> bytes:
        """A picture's file."""
        return encode(picture_HWC, self.kind, self.quality)


@dataclass(frozen=True)
class GenerationRequest:
    """Pictures of one prompt by one model.

    Args:
        shapes: (width, height) of each reference: what is encoded together shares them.
        seeds: one for each picture.
        steps: of the sampler; None for the model's own sigmas.
        partial_images: of a stream: at most so many pictures before the last one.
    """

    model: ServedModel
    prompt: Prompt
    shapes: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    steps: int | None = None
    file: PictureFile = PictureFile()
    partial_images: int = 0


@dataclass(frozen=True)
class GenerationResult:
    """Pictures as files, and what they took.

    Args:
        seconds: of `queue`, `encode`, `denoise`, `decode` and `total`.
        text_tokens, image_tokens: of the prompt with its template, and of the pictures to edit.
        output_tokens: of all pictures.
    """

    pictures: tuple[bytes, ...]
    seconds: dict[str, float]
    text_tokens: int
    image_tokens: int
    output_tokens: int


class Generator:
    """Draws pictures, in replicas of the deployments that `Serving.drawing` names."""

    def __init__(self, recipe: Recipe, store: Store, settings: Serving):
        self._settings = settings
        self._weights = WeightCache(store, cache_home() / "students", settings.weights_mib * MIB)
        self._batcher = Batcher(self._run, self._most)
        self._batcher.call(torch.set_num_threads, settings.threads)
        caches = settings.prompt_cache_mib
        self._engine = self._batcher.call(
            load_engine,
            recipe,
            settings.condition_mib * MIB,
            None if caches is None else caches * MIB,
        )
        self._metrics = DrawingMetrics()
        self._models: dict[str, ServedModel] = {}  # for the loader, which is given the digest alone

    async def generate(
        self, request: GenerationRequest, show: Callable[[np.ndarray], None] | None = None
    ) -> GenerationResult:
        """Draws the pictures of a request.

        Args:
            show: is given what the first picture looks like so far, in the batches' thread.

        Raises:
            UserError: the model's weights cannot be had.
        """
        start = time.perf_counter()
        model, prompt = request.model, request.prompt
        self._models[model.digest] = model
        loaded = LoadedModel(model.digest, await self.load(model.digest))
        encode_key = ("encode", prompt.size, request.shapes)
        encoded: tuple[EncodedPrompt, float] = await self._batcher.ask(
            encode_key, prompt, urgent=True
        )
        encoded_prompt, encode_s = encoded
        sampler = model.sampler_for(request.steps)
        layout, alpha = encoded_prompt.conditions.layout, request.file.transparent
        sample_key = ("sample", loaded.digest, layout, sampler, alpha)
        watcher = (
            Watcher(between(len(sampler.sigmas), request.partial_images), show) if show else None
        )
        rows: list[tuple[Sampling, int]] = await asyncio.gather(
            *(
                self._batcher.ask(sample_key, (loaded, sampler, encoded_prompt, seed, alpha, watch))
                for seed, watch in zip_longest(request.seeds, [watcher])
            )
        )
        batches = {id(sampling): sampling for sampling, _ in rows}.values()
        seconds = {
            "encode": encode_s,
            "denoise": sum(sampling.denoise_s for sampling in batches),
            "decode": sum(sampling.decode_s for sampling in batches),
        }
        total = time.perf_counter() - start
        seconds["queue"] = max(0.0, total - sum(seconds.values()))
        self._metrics.stages(_task(layout), seconds)
        pictures = [sampling.pictures_BHWC[row] for sampling, row in rows]
        files = await asyncio.to_thread(lambda: tuple(map(request.file.encode, pictures)))
        text, image = encoded_prompt.tokens
        drawn = len(pictures) * layout.tokens
        return GenerationResult(files, {**seconds, "total": total}, text, image, drawn)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[bytes | GenerationResult]:
        """Files of what the first picture looks like so far, then the result.

        Raises:
            UserError: the model's weights cannot be had.
        """
        loop, shown = asyncio.get_running_loop(), asyncio.Queue[np.ndarray | None]()

        def show(picture: np.ndarray | None) -> None:
            loop.call_soon_threadsafe(shown.put_nowait, picture)

        drawing = asyncio.create_task(self.generate(request, show))
        drawing.add_done_callback(lambda _: show(None))
        try:
            while (picture := await shown.get()) is not None:
                yield await asyncio.to_thread(request.file.encode, picture)
            yield await drawing
        finally:
            drawing.cancel()

    async def load(self, digest: str) -> nn.Module:
        """Loads the transformer of a model that was named before; overridden to keep a few."""
        model = self._models[digest]
        base = self._engine.base
        if model.student is None:
            return base.transformer
        folder = await asyncio.to_thread(self._weights.folder_of, model)
        transformer: nn.Module = await self._batcher.in_thread(base.load_transformer, folder)
        return transformer

    def _most(self, key: Hashable) -> int:
        """The items of a batch: prompts are encoded a few at a time, however many there are."""
        assert isinstance(key, tuple), "as `generate` makes them"
        if key[0] == "encode":
            return self._settings.batch
        layout: Layout = key[2]
        return self._settings.pictures_of_batch(layout.height * layout.width)

    def _run(self, key: Hashable, items: Sequence[Any]) -> Sequence[Any]:
        """Answers a batch in the batcher's thread: prompts that are encoded alike, or pictures of
        one model, sampler and layout."""
        if isinstance(items[0], Prompt):
            encoding = self._engine.encode(items)
            self._metrics.cache("condition", encoding.hits, encoding.misses)
            return [(prompt, encoding.seconds) for prompt in encoding.prompts]
        model, sampler, _, _, alpha, _ = items[0]
        prompts, seeds = [item[2] for item in items], [item[3] for item in items]
        watchers = [item[5] for item in items]
        sampling = self._engine.sample(model, sampler, prompts, seeds, alpha, watchers)
        self._metrics.batch(_task(prompts[0].conditions.layout), len(items))
        self._metrics.cache("prefix", sampling.hits, sampling.misses)
        return [(sampling, row) for row in range(len(items))]


def _task(layout: Layout) -> str:
    """The label of metrics."""
    return "edit" if layout.references else "generate"


def generator_keeping(models: int) -> type[Generator]:
    """A generator whose replicas keep that many models, the least recently used leaves first."""

    class KeepingGenerator(Generator):
        @serve.multiplexed(max_num_models_per_replica=models)
        async def load(self, digest: str) -> nn.Module:
            return await super().load(digest)

    return KeepingGenerator
