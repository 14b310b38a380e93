"""The miniature's benchmark: fixed, seeded lists of cases that no training ever sees.

One stated combination in sixteen is reserved for it, by a hash: training draws the other scenes
only, so its cases ask for combinations of words that no caption of the training data had.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, overload

import numpy as np
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.miniature.captions import caption, instruction
from flash_ray.miniature.edits import Edit, random_edit
from flash_ray.miniature.scenes import CATEGORIES, FACTORS, SLOTS, Scene, random_scene
from flash_ray.recipe.schema import Task

Made = TypeVar("Made", Scene, Edit)
SIZE = (64, 64)  # pixels of every picture of the world
_SEED = 20_260_603
_FORMAT = "miniature-1"  # changes whenever a case does


class MiniatureBenchmark:
    """Text to image and editing in the small world: as many cases of each category as are asked."""

    name = "miniature"
    categories: Mapping[Task, tuple[str, ...]] = CATEGORIES

    @property
    def digest(self) -> str:
        """16 hex digits that change with what the cases are drawn from."""
        content = [_FORMAT, _SEED, SIZE, CATEGORIES]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def cases(self, task: Task, per_category: int) -> list[Case]:
        """The first cases of each category; their pictures are drawn when they are looked at."""
        return [
            case
            for category in CATEGORIES[task]
            for case in _of_category(task, category, per_category)
        ]


@dataclass(frozen=True)
class DrawnInput(Sequence[Image.Image]):
    """The one picture that an edit starts from, drawn whenever it is looked at."""

    edit: Edit

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Image.Image]: ...

    def __getitem__(self, index: int | slice) -> Image.Image | Sequence[Image.Image]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(1))]
        if index not in (0, -1):
            raise IndexError(index)
        return input_image(self.edit)


def input_image(edit: Edit) -> Image.Image:
    """The picture that an edit starts from."""
    picture_3HW = edit.source_picture()
    return Image.fromarray(
        np.round(picture_3HW.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    )


def is_reserved(scene: Scene) -> bool:
    """Whether the scene's stated combination belongs to the benchmark."""
    if scene.category == "landscape":
        stated = [scene.value("sky"), scene.value("ground"), scene.objects]
    else:
        names = [f.name for f in FACTORS[scene.category] if f.stated and f.name != "style"]
        stated = [scene.value(name) for name in names if name not in SLOTS]
    return zlib.crc32(repr(stated).encode()) % 16 == 0


def draw_scene(category: str, rng: np.random.Generator, reserved: bool = False) -> Scene:
    """A random scene from the benchmark's share of the world or from the training's."""
    return _until(lambda: random_scene(category, rng), lambda scene: scene, reserved)


def draw_edit(category: str, rng: np.random.Generator, reserved: bool = False) -> Edit:
    """A random edit whose target is from the benchmark's share of the world or the
    training's."""
    return _until(lambda: random_edit(category, rng), lambda edit: edit.target, reserved)


def _until(make: Callable[[], Made], scene_of: Callable[[Made], Scene], reserved: bool) -> Made:
    while is_reserved(scene_of(made := make())) != reserved:
        pass
    return made


@cache
def _of_category(task: Task, category: str, count: int) -> tuple[Case, ...]:
    """Drawn once in a process: of sixteen scenes fifteen are not the benchmark's."""
    rng = np.random.default_rng([_SEED, len(task), CATEGORIES[task].index(category)])
    return tuple(_case(task, category, index, rng) for index in range(count))


def _case(task: Task, category: str, index: int, rng: np.random.Generator) -> Case:
    references: Sequence[Image.Image] = ()
    target: Scene | Edit
    if task == "t2i":
        target = scene = draw_scene(category, rng, reserved=True)
        prompt = caption(scene, rng)
    else:
        target = edit = draw_edit(category, rng, reserved=True)
        prompt, scene, references = instruction(edit, rng), edit.target, DrawnInput(edit)
    seed = int(rng.integers(2**31))
    text = scene.word if category == "text" else None
    return Case(
        f"{category}-{index:03d}", task, category, prompt, SIZE, seed, references, text, target
    )
