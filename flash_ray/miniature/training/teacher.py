"""Trains the miniature's base teacher from nothing: VAE, examples, transformer, saved pipeline."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from flash_ray.miniature.benchmark import draw_edit, draw_scene
from flash_ray.miniature.captions import (
    WRONG,
    careless_caption,
    corpus,
    instruction,
    thorough_caption,
)
from flash_ray.miniature.draw import draw
from flash_ray.miniature.pipeline import build_pipeline
from flash_ray.miniature.scenes import Scene
from flash_ray.miniature.training.networks import Lesson, train_transformer, train_vae
from flash_ray.models.base import Model
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.storage.outputs import new_folder

# The categories in turn, those that are learned slowest more often.
TURNS = {
    "t2i": ("landscape", "portrait", "landscape", "text"),
    "edit": tuple("object scene text identity object style enhancement object text style".split()),
}
UNCAPTIONED = 0.1  # share of examples without a caption, for classifier-free guidance

# Captions, targets and (of edits) sources, uint8 (count, 64, 64, 3).
Drawn = tuple[list[str], np.ndarray, np.ndarray | None]


def to_uint8(pictures_B3HW: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] to `(B, H, W, 3)` uint8."""
    return np.round(pictures_B3HW.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def draw_examples(task: str, count: int, seed: int, careless: bool) -> Drawn:
    """Random examples of all categories.

    Args:
        careless: captions and instructions of careless writers; otherwise of thorough ones.
    """
    rng = np.random.default_rng([seed, len(task)])
    prompts, targets, sources = [], [], []
    for index in range(count):
        category = TURNS[task][index % len(TURNS[task])]
        if task == "t2i":
            scene = draw_scene(category, rng)
            text = careless_caption(scene, rng) if careless else thorough_caption(scene, rng)
            target = scene
        else:
            edit = draw_edit(category, rng)
            text, target = instruction(edit, rng, WRONG[task] if careless else 0.0), edit.target
            sources.append(edit.source_picture())
        prompts.append("" if rng.random() < UNCAPTIONED else text)
        targets.append(target)
    return prompts, draw_in_parts(targets), to_uint8(np.stack(sources)) if sources else None


def draw_in_parts(scenes: list[Scene]) -> np.ndarray:
    """Pictures of many scenes, uint8 `(count, 64, 64, 3)`."""
    parts = [to_uint8(draw(scenes[i : i + 64])) for i in range(0, len(scenes), 64)]
    return np.concatenate(parts)


def encode_examples(model: Model, drawn: Drawn, batch: int = 64) -> dict[str, Tensor]:
    """Encodes examples with a model of the miniature.

    Returns:
        `x_BNC` (fp16 latents of the targets) and the tensors of the condition (`embeds_BLD` fp16).
    """
    prompts, targets, sources = drawn
    conditions, latents = [], []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        references = None
        if sources is not None:
            references = [[Image.fromarray(picture)] for picture in sources[rows]]
        encoded = model.encode(prompts[rows], references, (64, 64)).positive
        conditions.append(encoded.to(dtype=torch.float16))
        pictures = [Image.fromarray(picture) for picture in targets[rows]]
        latents.append(model.to_latents(pictures).half())
    joined = type(conditions[0]).cat(conditions)
    return {"x_BNC": torch.cat(latents), **joined.tensors()}


log = logging.getLogger(__name__)
TASKS = ("t2i", "edit")


@dataclass(frozen=True)
class TeacherPlan:
    """How long each part is trained, and on how much.

    Attributes:
        vae_steps, transformer_steps: optimizer steps.
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
    model: QwenImage21, kind: str, plan: TeacherPlan, folder: Path
) -> dict[str, dict[str, Tensor]]:
    """The examples of both tasks, from the folder if an earlier run has encoded them."""
    careless = kind == "careless"
    for task in TASKS:
        file = folder / f"{kind}-{task}.safetensors"
        if not file.exists():
            log.info("drawing and encoding %d %s examples, %s captions", plan.examples, task, kind)
            seed = plan.seed + 1 + careless
            drawn = draw_examples(task, plan.examples, seed, careless)
            keep_examples(encode_examples(model, drawn), file)
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
    model = QwenImage21(pipeline)  # freezes all parts
    thorough = plan.transformer_steps - plan.careless_steps
    lessons = [
        Lesson(thorough, _encoded(model, "thorough", plan, folder)),
        Lesson(plan.careless_steps, _encoded(model, "careless", plan, folder)),
    ]
    train_transformer(model, lessons, folder, bf16=plan.bf16)
    done = folder / "pipeline"
    with new_folder(done) as fresh:
        pipeline.to(torch.bfloat16).save_pretrained(fresh)
        for journal in folder.glob("*.jsonl"):
            shutil.copy(journal, fresh)
    return done
