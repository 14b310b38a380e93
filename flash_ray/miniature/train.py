"""Trains the miniature's base teacher from nothing: VAE, examples, transformer, saved pipeline."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage21
from safetensors.torch import load_file, save_file
from torch import Tensor

from flash_ray.backbones.qwen_image_21 import QwenImage21
from flash_ray.miniature.captions import corpus
from flash_ray.miniature.examples import draw_examples, encode_examples
from flash_ray.miniature.pipeline import build_pipeline
from flash_ray.miniature.train_transformer import Lesson, train_transformer
from flash_ray.miniature.train_vae import train_vae

log = logging.getLogger(__name__)
TASKS = ("t2i", "edit")


@dataclass(frozen=True)
class TeacherPlan:
    """How long each part is trained, and on how much.

    Attributes:
        vae_steps, transformer_steps: optimiser steps.
        careless_steps: the last of the transformer's, on careless captions. Those before are on
            thorough ones, from which it learns in a fraction of the time what words mean.
        examples: pictures for each task and kind of caption, drawn and encoded once.
        bf16: autocast, about 1.8 times as fast on CPUs that multiply in bf16.
    """

    vae_steps: int = 15_000
    transformer_steps: int = 14_000
    careless_steps: int = 3500
    examples: int = 36_000
    seed: int = 0
    bf16: bool = True


def _encoded(
    backbone: QwenImage21, kind: str, plan: TeacherPlan, folder: Path
) -> dict[str, dict[str, Tensor]]:
    """The examples of both tasks, from the folder if an earlier run has encoded them."""
    careless = kind == "careless"
    for task in TASKS:
        file = folder / f"{kind}-{task}.safetensors"
        if not file.exists():
            log.info("drawing and encoding %d %s examples, %s captions", plan.examples, task, kind)
            seed = plan.seed + 1 + careless
            drawn = draw_examples(task, plan.examples, seed, careless)
            keep_examples(encode_examples(backbone, drawn), file)
    return {task: load_file(folder / f"{kind}-{task}.safetensors") for task in TASKS}


def keep_examples(examples: dict[str, Tensor], file: Path) -> None:
    """Writes encoded examples so that the file is whole or not there."""
    save_file(examples, file.with_suffix(".partial"))
    os.replace(file.with_suffix(".partial"), file)


def train_teacher(folder: Path, plan: TeacherPlan = TeacherPlan(), vae: Path | None = None) -> Path:
    """Trains everything, resumably: a second call in the same folder goes on where one stopped.

    Args:
        vae: the folder of a trained VAE, to take instead of training one.

    Returns:
        The folder of the saved pipeline, weights in bf16, with the logs of both trainings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = build_pipeline(corpus(3000), seed=plan.seed)
    if vae:
        pipeline.vae = AutoencoderKLQwenImage21.from_pretrained(vae, torch_dtype=torch.float32)
    else:
        train_vae(pipeline.vae.requires_grad_(True).train(), folder, plan.vae_steps, bf16=plan.bf16)
    backbone = QwenImage21(pipeline)  # freezes all parts
    thorough = plan.transformer_steps - plan.careless_steps
    lessons = [
        Lesson(thorough, _encoded(backbone, "thorough", plan, folder)),
        Lesson(plan.careless_steps, _encoded(backbone, "careless", plan, folder)),
    ]
    train_transformer(backbone, lessons, folder, bf16=plan.bf16)
    done = folder / "pipeline"
    pipeline.to(torch.bfloat16).save_pretrained(done)
    for journal in folder.glob("*.jsonl"):
        shutil.copy(journal, done)
    return done
