"""Bench cases that were encoded once, for transformers that are asked wherever they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers import QwenImage21Pipeline
from torch import nn

from flash_ray.backbones.base import Backbone
from flash_ray.backbones.load import resolve_base
from flash_ray.backbones.qwen_image_21 import QwenImage21
from flash_ray.evaluation.generate import Batch, answer, encode_cases
from flash_ray.evaluation.ways import student, weights_dtype
from flash_ray.miniature.bench import Case, cases
from flash_ray.recipe import Recipe


@dataclass(frozen=True)
class Questions:
    """Encoded cases by bench, and what decodes the answers; made by `encode_questions`."""

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
    def _backbone(self) -> Backbone:
        # Of the base only what decodes: the transformer is the one that is asked.
        pipeline = QwenImage21Pipeline.from_pretrained(
            resolve_base(self.base), dtype=self.dtype, transformer=None, text_encoder=None
        )
        return QwenImage21(pipeline)


def encode_questions(
    recipe: Recipe, backbone: Backbone, per_category: Mapping[str, int]
) -> Questions:
    """The first cases of each category, as many as `per_category` says by bench."""
    batches = {
        bench: encode_cases(backbone, cases(bench, count)) for bench, count in per_category.items()
    }
    return Questions(recipe.base, weights_dtype(recipe), batches)
