"""A benchmark of signs and a judge of sharpness, as a package of their own would have them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore, Runs
from flash_ray.recipe.schema import Task

WORDS = ("OPEN", "EXIT", "STOP")
COLORS = ("red", "blue")
SIZE = (64, 96)  # height, width


class SignsBenchmark:
    """Signs to draw, by material, and a plain picture to color."""

    name = "signs"
    digest = hashlib.sha256(repr((WORDS, COLORS, SIZE)).encode()).hexdigest()[:16]
    categories: Mapping[Task, tuple[str, ...]] = {"t2i": ("wood", "metal"), "edit": ("color",)}

    def cases(self, task: Task, per_category: int) -> list[Case]:
        """The first cases of each category."""
        if task == "t2i":
            return [
                Case(
                    id=f"{material}-{word.lower()}",
                    task="t2i",
                    category=material,
                    prompt=f'A {material} sign that says "{word}"',
                    size=SIZE,
                    seed=seed,
                    text=word,
                )
                for material in self.categories["t2i"]
                for seed, word in enumerate(WORDS[:per_category])
            ]
        gray = Image.new("RGB", (SIZE[1], SIZE[0]), "gray")
        return [
            Case(f"make-{color}", "edit", "color", f"Make it {color}", SIZE, seed, [gray])
            for seed, color in enumerate(COLORS[:per_category])
        ]


class SharpnessJudge:
    """Scores the mean difference of neighboring pixels: 0 for none, 1 for black beside white."""

    name = "sharpness"
    scale = "mean step between neighbors, 0 to 1"
    runs: Runs = "cpu"

    def can_judge(self, case: Case) -> bool:
        """Any picture has a sharpness."""
        return True

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3)."""
        return [_score(image_HW3) for image_HW3 in images_BHW3]

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """The best case of the category."""
        best = max(range(len(cases)), key=lambda index: scores[index].score or 0.0)
        return {"sharpest": cases[best].id}


def _score(image_HW3: np.ndarray) -> CaseScore:
    steps = np.abs(np.diff(image_HW3.astype(np.float64), axis=1)) / 255
    sharpness = float(steps.mean())
    return CaseScore(score=sharpness, measures={"sharpness": sharpness})
