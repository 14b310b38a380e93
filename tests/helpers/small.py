"""Shared by all tests: a very small base, and students of it that differ."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.captions import corpus
from flash_ray.miniature.pipeline import TRANSFORMER_CONFIG, VAE_CONFIG, build_pipeline
from flash_ray.models.loading import load_model
from flash_ray.recipe import Recipe
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import Baseline, GapClosed, PublishedScores
from flash_ray.storage.students import publish_student

SMALL_VAE = {**VAE_CONFIG, "base_dim": 8, "decoder_base_dim": 8}
SMALL_TRANSFORMER = {**TRANSFORMER_CONFIG, "num_layers": 2, "num_attention_heads": 2}


def untrained_pipeline(
    texts: Iterable[str], transformer: Mapping[str, Any] = TRANSFORMER_CONFIG
) -> QwenImage21Pipeline:
    """A pipeline with weights scaled so that prompts and times matter; the same every time."""
    pipeline = build_pipeline(texts, SMALL_VAE, transformer)
    generator = torch.Generator().manual_seed(1)
    for weight in pipeline.transformer.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    return pipeline


def build_base(folder: Path, texts: Iterable[str] = tuple(corpus(60))) -> Path:
    """A saved pipeline, very small and untrained."""
    untrained_pipeline(texts, SMALL_TRANSFORMER).save_pretrained(folder)
    return folder


def publish(store: Store, recipe: Recipe, name: str, folder: Path, scale: float = 1.0) -> None:
    """Publishes the base's transformer, its last layer scaled so that students differ."""
    transformer = load_model(recipe.base, torch.float32, "cpu", encoders=False).transformer
    with torch.no_grad():
        transformer.proj_out.weight.mul_(scale)
    transformer.save_pretrained(folder)
    scores = PublishedScores(
        benchmark="miniature",
        digest=MiniatureBenchmark().digest,
        judge="exact",
        cases_per_category=1,
        tasks={"t2i": 3.0, "edit": 3.0},
        baselines={
            "teacher": Baseline(nfe=80, tasks={"t2i": 4.0, "edit": 3.5}),
            "untrained": Baseline(nfe=4, tasks={"t2i": 2.0, "edit": 3.5}),
        },
        gap_closed={"t2i": GapClosed(share=0.5, interval=(0.4, 0.6))},
    )
    publish_student(store, name, folder, recipe, scores)
