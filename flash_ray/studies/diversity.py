"""How far pictures of one prompt from several noises lie apart."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.recipe.schema import Task

SIDE = 64  # pixels to which a longer side is shrunk: composition counts, not grain


def diversity(
    cases: Mapping[Task, Sequence[Case]], images: Mapping[Task, Sequence[np.ndarray]]
) -> dict[Task, dict[str, float]]:
    """The `spread` of each case's pictures, by task and case id, to four digits.

    Args:
        cases: each as often as it was answered, as `CaseRange` has them.
        images: uint8 (H, W, 3), one for each.
    """
    table: dict[Task, dict[str, float]] = {}
    for task, of_task in cases.items():
        pictures: dict[str, list[np.ndarray]] = {}
        for case, image in zip(of_task, images[task], strict=True):
            pictures.setdefault(case.id, []).append(image)
        table[task] = {case: round(spread(of_case), 4) for case, of_case in pictures.items()}
    return table


def spread(images: Sequence[np.ndarray]) -> float:
    """The mean over all pairs of pictures of the root-mean-square difference of their pixels, 0 to
    1, at most `SIDE` pixels long.

    Args:
        images: two or more, uint8 (H, W, 3), of one size.
    """
    small = [_shrunk(image) for image in images]
    pairs = combinations(small, 2)
    return float(np.mean([np.sqrt(np.square(left - right).mean()) for left, right in pairs]))


def _shrunk(image_HW3: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image_HW3)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float64) / 255
