"""The bench beside training: a few cases, encoded once, that a worker answers in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from diffusers import QwenImage21Pipeline
from torch import nn

from flash_ray.backbones.base import Backbone
from flash_ray.backbones.load import resolve_base
from flash_ray.backbones.qwen_image_21 import QwenImage21
from flash_ray.evaluation.generate import Batch, answer, encode_cases
from flash_ray.evaluation.score import judge_bench
from flash_ray.evaluation.ways import student, weights_dtype
from flash_ray.miniature.bench import cases
from flash_ray.recipe import Recipe

CASES = {"t2i": 2, "edit": 1}  # of each category


@dataclass(frozen=True)
class SmallBench:
    """Scores a student by bench; made by `small_bench`, sent to a worker, called there."""

    base: str
    dtype: torch.dtype
    sigmas: Sequence[float]
    batches: dict[str, list[Batch]]

    def __call__(self, transformer: nn.Module) -> dict[str, float]:
        return {bench: self._score(transformer, batches) for bench, batches in self.batches.items()}

    def _score(self, transformer: nn.Module, batches: Sequence[Batch]) -> float:
        pictures = answer(self._backbone, batches, student(transformer, self.sigmas))
        asked = [case for batch in batches for case in batch.cases]
        # In this process: the cluster's cores belong to the run.
        return judge_bench(asked, pictures, parallel=False).score

    @cached_property
    def _backbone(self) -> Backbone:
        # Of the base only what decodes: the transformer is the one that is asked.
        pipeline = QwenImage21Pipeline.from_pretrained(
            resolve_base(self.base), dtype=self.dtype, transformer=None, text_encoder=None
        )
        return QwenImage21(pipeline)


def small_bench(recipe: Recipe, backbone: Backbone) -> SmallBench:
    """The recipe's student on the first cases of both benches."""
    return SmallBench(
        recipe.base,
        weights_dtype(recipe),
        recipe.student.rungs,
        {bench: encode_cases(backbone, cases(bench, count)) for bench, count in CASES.items()},
    )
