"""Draws pictures: conditions encoded once, rows of one batch that do not change each other.

The same model, prompt, pictures, seed and size give the same picture to 1/255, whatever the batch,
in fp32 on a CPU. A GPU's kernels are chosen by the size of the batch and round differently: in bf16
that can show, as single pixels a few levels off.
"""

import hashlib
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from flash_ray.evaluation.sample import load_base
from flash_ray.methods.base import VelocityFn
from flash_ray.methods.flow import euler
from flash_ray.methods.guidance import guided_velocity
from flash_ray.models.base import Condition, ConditionPair, Layout, Model, PromptCache
from flash_ray.models.prompt_cache import join, prefill, size_of, split
from flash_ray.recipe import Recipe
from flash_ray.serving.batching import Lru


@dataclass(frozen=True)
class Question:
    """What a picture is conditioned on.

    Args:
        references: of edits the pictures, as PNG bytes; empty for text to image.
        size: (height, width) of the output in pixels.
    """

    prompt: str
    references: tuple[bytes, ...]
    size: tuple[int, int]

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        hashed = hashlib.sha256(repr((self.prompt, self.size)).encode())
        for reference in self.references:
            hashed.update(hashlib.sha256(reference).digest())
        return hashed.hexdigest()


@dataclass(frozen=True)
class Row:
    """One picture of a batch: its condition, under the question's digest, and its seed."""

    digest: str
    conditioned: ConditionPair
    seed: int


@dataclass(frozen=True)
class Way:
    """How the batch's model is sampled; `digest` names the weights of `transformer`."""

    digest: str
    transformer: nn.Module
    sigmas: tuple[float, ...]
    guidance: float
    rescale: bool


@dataclass(frozen=True)
class Encoded:
    """Conditions in the order of the questions, the seconds it took, those found and not found."""

    conditions: list[ConditionPair]
    seconds: float
    hits: int
    misses: int


@dataclass(frozen=True)
class Drawn:
    """Pictures, uint8 (B, H, W, 3), the seconds of both stages, prefixes found and not found."""

    pictures_BHW3: np.ndarray
    denoise_s: float
    decode_s: float
    hits: int
    misses: int


class Engine:
    """One base's encoders and decoder, and what is worth keeping between batches.

    Args:
        condition_bytes, prefix_bytes: memory for encoded questions, and for the keys and values of
            their texts and pictures under the models that were asked.
    """

    def __init__(self, backbone: Model, condition_bytes: int, prefix_bytes: int):
        self.backbone = backbone
        self.conditions: Lru[ConditionPair] = Lru(condition_bytes, _bytes_of)
        self.prefixes: Lru[PromptCache] = Lru(prefix_bytes, size_of)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.transformer.parameters()).device

    @torch.inference_mode()
    def encode(self, questions: Sequence[Question]) -> Encoded:
        """Conditions of questions of one size and one shape of references, each as if alone."""
        start = time.perf_counter()
        found = [self.conditions.get(question.digest) for question in questions]
        missing = {
            question.digest: question
            for question, condition in zip(questions, found, strict=True)
            if condition is None
        }
        encoded = dict(zip(missing, self._encode(list(missing.values())), strict=True))
        for digest, conditioned in encoded.items():
            self.conditions.put(digest, conditioned)
        conditions = [
            encoded[question.digest] if condition is None else condition
            for question, condition in zip(questions, found, strict=True)
        ]
        misses = sum(condition is None for condition in found)
        return Encoded(conditions, time.perf_counter() - start, len(found) - misses, misses)

    @torch.inference_mode()
    def draw(self, way: Way, rows: Sequence[Row]) -> Drawn:
        """Pictures of rows of one layout."""
        start = time.perf_counter()
        layout = rows[0].conditioned.layout
        x_BNC = self._noise(rows, layout)
        positive = _Prompts(self, way, rows, negative=False)
        prompts = [positive]
        if way.guidance != 1.0:
            prompts.append(_Prompts(self, way, rows, negative=True))

        def velocity(z_BNC: Tensor, t_B: Tensor) -> Tensor:
            v_BNC = positive.velocity(z_BNC, t_B)
            if way.guidance == 1.0:
                return v_BNC
            v_uncond = prompts[1].velocity(z_BNC, t_B)
            return guided_velocity(v_BNC, v_uncond, way.guidance, way.rescale)

        x_BNC = euler(velocity, x_BNC, [*way.sigmas, 0.0])
        denoised = time.perf_counter()
        pictures = self.backbone.to_images(x_BNC, layout)
        return Drawn(
            pictures,
            denoise_s=denoised - start,
            decode_s=time.perf_counter() - denoised,
            hits=sum(own.hits for own in prompts),
            misses=sum(own.misses for own in prompts),
        )

    def _encode(self, questions: Sequence[Question]) -> list[ConditionPair]:
        if not questions:
            return []
        references = [
            [Image.open(BytesIO(data)) for data in question.references] for question in questions
        ]
        conditioned = self.backbone.encode(
            [question.prompt for question in questions],
            references if references[0] else None,
            questions[0].size,
        )
        return [conditioned.rows([row]).trimmed() for row in range(len(questions))]

    def _noise(self, rows: Sequence[Row], layout: Layout) -> Tensor:
        # On the CPU, so that a seed means the same noise on every device; as benches draw it.
        shape = (layout.tokens, self.backbone.latent_channels)
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in rows]
        return torch.stack(drawn).to(self.device)


def load_engine(recipe: Recipe, condition_bytes: int, prefix_bytes: int) -> Engine:
    """An engine of the recipe's base: on a GPU in its precision, on a CPU in fp32.

    Raises:
        UserError: there is no such base.
    """
    dtype = None if recipe.runtime.gpu else torch.float32
    return Engine(load_base(recipe, dtype), condition_bytes, prefix_bytes)


class _Prompts:
    """A batch's positive or negative conditions and their prefixes, each as if its row were alone.

    The first velocity fills what is missing; those that follow use it.
    """

    def __init__(self, engine: Engine, way: Way, rows: Sequence[Row], negative: bool):
        self._engine, self._way = engine, way
        own = [r.conditioned.negative if negative else r.conditioned.positive for r in rows]
        self._rows = [condition.to(engine.device) for condition in own]
        self._condition = Condition.cat(self._rows)
        # Without references every negative is the same empty prompt.
        empty = negative and own[0].references_BNC is None
        self._keys = [
            (way.digest, negative, own[0].layout if empty else row.digest) for row in rows
        ]
        self._decode: VelocityFn | None = None
        self.hits = self.misses = 0

    def velocity(self, z_BNC: Tensor, t_B: Tensor) -> Tensor:
        if self._decode:
            return self._decode(z_BNC, t_B)
        kept = {key: self._engine.prefixes.get(key) for key in self._keys}
        self.hits = sum(kept[key] is not None for key in self._keys)
        self.misses = len(self._keys) - self.hits
        backbone, transformer = self._engine.backbone, self._way.transformer
        if not self.hits and self._condition.mask_BL.all():
            # Nothing is padded, so the step that fills the prefixes is a step of the sampler too.
            prefix = PromptCache()
            v_BNC = backbone.velocity(transformer, z_BNC, t_B, self._condition, prefix)
            self._keep(self._keys, prefix, self._condition)
            self._decode = backbone.decoder(transformer, self._condition, prefix)
            return v_BNC
        missing = {key: row for row, key in enumerate(self._keys) if kept[key] is None}
        if missing:
            condition = Condition.cat([self._rows[row] for row in missing.values()])
            filled = prefill(backbone, transformer, condition)
            kept |= self._keep(list(missing), filled, condition)
        prefix = join(transformer, [kept[key] for key in self._keys])
        self._decode = backbone.decoder(transformer, self._condition, prefix)
        return self._decode(z_BNC, t_B)

    def _keep(
        self, keys: Sequence[Hashable], prefix: PromptCache, condition: Condition
    ) -> dict[Hashable, PromptCache]:
        rows = dict(zip(keys, split(prefix, condition), strict=True))
        for key, row in rows.items():
            self._engine.prefixes.put(key, row)
        return rows


def _bytes_of(conditioned: ConditionPair) -> int:
    parts = (conditioned.positive, conditioned.negative)
    return sum(tensor.nbytes for part in parts for tensor in part.tensors().values())
