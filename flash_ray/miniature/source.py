"""Training cases of the miniature world, with exact captions; the benches' scenes are left out."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from flash_ray.miniature.benchmark import draw_edit, draw_scene
from flash_ray.miniature.captions import caption, instruction
from flash_ray.miniature.categories import EDIT_CATEGORIES, T2I_CATEGORIES

_SEED = 20_261_123  # of the cases themselves; a recipe's seed sets only their order


@dataclass(frozen=True)
class TrainingCase:
    """A prompt (T2I), or an instruction with its reference pictures (edit).

    Args:
        rendered_text: whether the picture that is asked for contains a word.
    """

    prompt: str
    references: tuple[Image.Image, ...] = ()
    rendered_text: bool = False


def training_case(task: str, category: str, index: int) -> TrainingCase:
    """Case `index` of a category: always the same one."""
    if task == "t2i":
        rng = np.random.default_rng([_SEED, 0, T2I_CATEGORIES.index(category), index])
        return TrainingCase(
            caption(draw_scene(category, rng), rng), rendered_text=category == "text"
        )
    rng = np.random.default_rng([_SEED, 1, EDIT_CATEGORIES.index(category), index])
    edit = draw_edit(category, rng)
    pixels = (edit.source_picture().clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return TrainingCase(instruction(edit, rng), (picture,), edit.source.category == "text")
