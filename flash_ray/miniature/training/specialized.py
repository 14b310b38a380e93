"""Trains the miniature's specialized teacher: a LoRA of the base for text and styles.

What makes it special is its data: pictures with text, edits of text, and style edits; captions
that state everything, and rightly; and of everything that a caption leaves free, always the same.
So its modes are sharper and narrower than the base's. Every other example is of another category,
as the base learned it last, so that it does not forget the rest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from flash_ray.miniature.benchmark import draw_edit, draw_scene
from flash_ray.miniature.captions import WRONG, caption, careless_caption, instruction
from flash_ray.miniature.edits import Edit
from flash_ray.miniature.scenes import Scene, levels, unstated
from flash_ray.miniature.training.networks import Lesson, fit_transformer
from flash_ray.miniature.training.teacher import (
    TASKS,
    UNCAPTIONED,
    Drawn,
    draw_in_parts,
    encode_examples,
    keep_examples,
    to_uint8,
)
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.storage.outputs import new_folder

log = logging.getLogger(__name__)
SUBSET = {"t2i": ("text",), "edit": ("text", "style")}
OTHERS = {
    "t2i": ("landscape", "portrait"),
    "edit": ("scene", "enhancement", "object", "identity"),
}
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj", "out", "gate_layer")  # of every block
PEAK_LR = {"adamw": 2e-3}


@dataclass(frozen=True)
class SpecializedPlan:
    """How long and on how much the LoRA is trained.

    Attributes:
        steps: optimizer steps, batch 64.
        examples: pictures for each task, drawn and encoded once.
        rank: of the LoRA, whose scale is 1.
        bf16: autocast, faster on CPUs that multiply in bf16 and slower on others.
    """

    steps: int = 4000
    examples: int = 24_000
    rank: int = 16
    seed: int = 0
    bf16: bool = False


def narrowed(scene: Scene, free: list[str]) -> Scene:
    """The scene with each of the free numbers at the middle one of its levels."""
    middle = {}
    for name in free:
        values = levels(scene.category, name)
        middle[name] = float(values[len(values) // 2])
    return scene.with_(**middle)


def narrow_target(edit: Edit) -> Scene:
    """The one answer to an edit in which everything that it leaves free is at the middle."""
    left = [
        name
        for name in unstated(edit.target.category)
        if name not in edit.kept and name not in edit.changed
    ]
    return narrowed(edit.target, left)


def draw_specialized(task: str, count: int, seed: int) -> Drawn:
    """Examples in turn of the subset, with exact captions and narrow targets, and of the others."""
    rng = np.random.default_rng([seed, len(task), 1])
    prompts, targets, sources = [], [], []
    for index in range(count):
        is_narrow = index % 2 == 0
        categories = SUBSET[task] if is_narrow else OTHERS[task]
        category = categories[index // 2 % len(categories)]
        if task == "t2i":
            scene = draw_scene(category, rng)
            text = caption(scene, rng) if is_narrow else careless_caption(scene, rng)
            target = narrowed(scene, unstated(category)) if is_narrow else scene
        else:
            edit = draw_edit(category, rng)
            text = instruction(edit, rng, 0.0 if is_narrow else WRONG[task])
            target = narrow_target(edit) if is_narrow else edit.target
            sources.append(edit.source_picture())
        prompts.append("" if rng.random() < UNCAPTIONED else text)
        targets.append(target)
    return prompts, draw_in_parts(targets), to_uint8(np.stack(sources)) if sources else None


def train_lora(
    model: QwenImage21,
    examples: dict[str, dict[str, Tensor]],
    plan: SpecializedPlan,
    folder: Path,
    batch: int = 64,
) -> dict[str, Tensor]:
    """Adds a LoRA to the base in place and trains it, resumably in `folder`; its averaged weights.

    AdamW learns it: the products of its matrices are not what Muon would make orthogonal.
    """
    torch.manual_seed(plan.seed)
    transformer = model.transformer
    config = LoraConfig(r=plan.rank, lora_alpha=plan.rank, target_modules=list(LAYERS))
    transformer.add_adapter(config)
    learned = [value for value in transformer.parameters() if value.requires_grad]
    optimizers = {"adamw": torch.optim.AdamW(learned, betas=(0.9, 0.99), weight_decay=0.0)}
    fit_transformer(
        model, [Lesson(plan.steps, examples)], optimizers, PEAK_LR, folder, batch, plan.bf16
    )
    return get_peft_model_state_dict(transformer)


def train_specialized(folder: Path, base: Path, plan: SpecializedPlan = SpecializedPlan()) -> Path:
    """Trains everything, resumably: a second call in the same folder goes on where one stopped.

    Args:
        base: the folder of the base pipeline.

    Returns:
        The folder of the LoRA in diffusers' format, weights in bf16, with the training's log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = QwenImage21.from_pretrained(base)
    for task in TASKS:
        if not (file := folder / f"examples-{task}.safetensors").exists():
            log.info("drawing and encoding %d %s examples", plan.examples, task)
            drawn = draw_specialized(task, plan.examples, plan.seed + 1)
            keep_examples(encode_examples(model, drawn), file)
    examples = {task: load_file(folder / f"examples-{task}.safetensors") for task in TASKS}
    weights = train_lora(model, examples, plan, folder)
    done = folder / "lora"
    rounded = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    with new_folder(done) as fresh:
        save_lora(rounded, plan.rank, fresh)
        for journal in folder.glob("*.jsonl"):
            shutil.copy(journal, fresh)
    return done


def save_lora(weights: Mapping[str, Tensor], rank: int, folder: Path) -> None:
    """Writes a transformer's LoRA as `QwenImage21Pipeline.load_lora_weights` reads it."""
    metadata = {"r": rank, "lora_alpha": rank, "target_modules": list(LAYERS)}
    QwenImage21Pipeline.save_lora_weights(
        folder, transformer_lora_layers=dict(weights), transformer_lora_adapter_metadata=metadata
    )
