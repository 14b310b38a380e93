"""Training examples of the miniature's teacher: pictures, careless captions, encoded once."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flash_ray.backbones.base import Backbone
from flash_ray.miniature.bench import draw_edit, draw_scene
from flash_ray.miniature.captions import WRONG, careless_caption, instruction, thorough_caption
from flash_ray.miniature.draw import draw
from flash_ray.miniature.scenes import Scene

# The categories in turn, those that are learnt slowest more often.
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


def encode_examples(backbone: Backbone, drawn: Drawn, batch: int = 64) -> dict[str, Tensor]:
    """Encodes examples with a backbone of the miniature.

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
        encoded = backbone.encode(prompts[rows], references, (64, 64)).positive
        conditions.append(encoded.to(dtype=torch.float16))
        pictures = [Image.fromarray(picture) for picture in targets[rows]]
        latents.append(backbone.to_latents(pictures).half())
    joined = type(conditions[0]).cat(conditions)
    return {"x_BNC": torch.cat(latents), **joined.tensors()}
