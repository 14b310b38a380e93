"""The deployment that draws: one base in memory, a few students beside it, batches of equals."""

import asyncio
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray import serve
from torch import nn

from flash_ray.data.cache import cache_home
from flash_ray.recipe import Recipe
from flash_ray.serving.batching import Batcher
from flash_ray.serving.engine import Drawn, Encoded, Question, Row, Way, load_engine
from flash_ray.serving.images import png
from flash_ray.serving.metrics import DrawingMetrics
from flash_ray.serving.registry import ServedModel
from flash_ray.serving.settings import MIB, Serving
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.s3 import Store


@dataclass(frozen=True)
class GenerationRequest:
    """What a request asks of a generator.

    Args:
        shapes: (height, width) of each reference: what is encoded together shares them.
        seeds: one for each picture.
        steps: of the sampler; None for the model's own sigmas.
    """

    model: ServedModel
    question: Question
    shapes: tuple[tuple[int, int], ...]
    seeds: tuple[int, ...]
    steps: int | None = None


@dataclass(frozen=True)
class GenerationResult:
    """Pictures as PNG, and the seconds of `queue`, `encode`, `denoise`, `decode` and `total`."""

    pictures: tuple[bytes, ...]
    seconds: dict[str, float]


class Generator:
    """Answers orders, in replicas of the deployments `generate` and `edit`."""

    def __init__(self, task: str, recipe: Recipe, store: Store, settings: Serving):
        self._task = task
        self._weights = WeightCache(store, cache_home() / "students", settings.weights_mib * MIB)
        self._batcher = Batcher(self._run, settings.batch)
        self._batcher.call(torch.set_num_threads, settings.threads)
        self._engine = self._batcher.call(
            load_engine, recipe, settings.condition_mib * MIB, settings.prefix_mib * MIB
        )
        self._metrics = DrawingMetrics()
        self._models: dict[
            str, ServedModel
        ] = {}  # by digest, for the loader, which is given that alone

    async def paint(self, order: GenerationRequest) -> GenerationResult:
        """Draws an order's pictures.

        Raises:
            UserError: the model's weights cannot be had.
        """
        start = time.perf_counter()
        self._models[order.model.digest] = order.model
        transformer = await self.load(order.model.digest)
        question = order.question
        encoded: tuple[Any, float] = await self._batcher.ask(
            ("encode", question.size, order.shapes), question, urgent=True
        )
        conditioned, encode_s = encoded
        model = order.model
        way = Way(
            model.digest, transformer, model.sigmas_for(order.steps), model.guidance, model.rescale
        )
        key = ("draw", way.digest, conditioned.layout, way.sigmas)
        answers = await asyncio.gather(
            *(
                self._batcher.ask(key, (way, Row(question.digest, conditioned, seed)))
                for seed in order.seeds
            )
        )
        batches: list[Drawn] = list({id(drawn): drawn for drawn, _ in answers}.values())
        seconds = {
            "encode": encode_s,
            "denoise": sum(drawn.denoise_s for drawn in batches),
            "decode": sum(drawn.decode_s for drawn in batches),
        }
        total = time.perf_counter() - start
        seconds["queue"] = max(0.0, total - sum(seconds.values()))
        self._metrics.stages(self._task, seconds)
        pictures = [drawn.pictures_BHW3[place] for drawn, place in answers]
        files = await asyncio.to_thread(lambda: tuple(png(picture) for picture in pictures))
        return GenerationResult(files, {**seconds, "total": total})

    async def load(self, digest: str) -> nn.Module:
        """The transformer of a model that was named before; overridden to keep a few of them."""
        model = self._models[digest]
        backbone = self._engine.backbone
        if model.student is None:
            return backbone.transformer
        folder = await asyncio.to_thread(self._weights.folder_of, model)
        return await self._batcher.in_thread(backbone.load_transformer, folder)

    def _run(self, key: tuple[Hashable, ...], items: Sequence[Any]) -> Sequence[Any]:
        if key[0] == "encode":
            encoded: Encoded = self._engine.encode(items)
            self._metrics.cache("condition", encoded.hits, encoded.misses)
            return [(condition, encoded.seconds) for condition in encoded.conditions]
        drawn = self._engine.draw(items[0][0], [row for _, row in items])
        self._metrics.batch(self._task, len(items))
        self._metrics.cache("prefix", drawn.hits, drawn.misses)
        return [(drawn, place) for place in range(len(items))]


def generator_keeping(models: int) -> type[Generator]:
    """A generator whose replicas keep that many models, the least recently used leaves first."""

    class KeepingPainter(Generator):
        @serve.multiplexed(max_num_models_per_replica=models)
        async def load(self, digest: str) -> nn.Module:
            return await super().load(digest)

    return KeepingPainter
