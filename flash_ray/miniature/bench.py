"""The miniature's benches: fixed, seeded lists of cases that no training ever sees.

One stated combination in sixteen is reserved for the benches, by a hash: training draws the other
scenes only, so a bench asks for combinations of words that no caption of the training data had.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flash_ray.miniature.captions import caption, instruction
from flash_ray.miniature.edits import Edit, random_edit
from flash_ray.miniature.scenes import FACTORS, SLOTS, Scene, random_scene
from flash_ray.recipe.categories import EDIT_CATEGORIES, T2I_CATEGORIES

BENCHES = {"t2i": T2I_CATEGORIES, "edit": EDIT_CATEGORIES}
_SEED = 20_260_603


@dataclass(frozen=True)
class Case:
    """One question of a bench; `wanted` is a scene (t2i) or an edit (edit).

    `seed` fixes the initial noise, so that every model answers from the same one.
    """

    bench: str
    category: str
    index: int
    prompt: str
    wanted: Scene | Edit
    seed: int

    @property
    def id(self) -> str:
        return f"{self.category}-{self.index:03d}"


def is_reserved(scene: Scene) -> bool:
    """Whether the scene's stated combination belongs to the benches."""
    if scene.category == "landscape":
        stated = [scene.value("sky"), scene.value("ground"), scene.objects]
    else:
        names = [f.name for f in FACTORS[scene.category] if f.stated and f.name != "style"]
        stated = [scene.value(name) for name in names if name not in SLOTS]
    return zlib.crc32(repr(stated).encode()) % 16 == 0


def draw_scene(category: str, rng: np.random.Generator, reserved: bool = False) -> Scene:
    """A random scene from the benches' share of the world or from the training's."""
    return _until(lambda: random_scene(category, rng), lambda scene: scene, reserved)


def draw_edit(category: str, rng: np.random.Generator, reserved: bool = False) -> Edit:
    """A random edit whose target is from the benches' share of the world or the training's."""
    return _until(lambda: random_edit(category, rng), lambda edit: edit.target, reserved)


def _until(make: Callable, scene_of: Callable, reserved: bool):
    while is_reserved(scene_of(made := make())) != reserved:
        pass
    return made


def cases(bench: str, per_category: int) -> list[Case]:
    """The first `per_category` cases of each category of a bench, always the same ones."""
    out = []
    for number, category in enumerate(BENCHES[bench]):
        rng = np.random.default_rng([_SEED, len(bench), number])
        for index in range(per_category):
            if bench == "t2i":
                wanted: Scene | Edit = draw_scene(category, rng, reserved=True)
                prompt = caption(wanted, rng)
            else:
                wanted = draw_edit(category, rng, reserved=True)
                prompt = instruction(wanted, rng)
            seed = int(rng.integers(2**31))
            out.append(Case(bench, category, index, prompt, wanted, seed))
    return out


def source_image(case: Case) -> Image.Image:
    """The input picture of an edit."""
    picture_3HW = case.wanted.source_picture()
    return Image.fromarray(
        np.round(picture_3HW.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    )
