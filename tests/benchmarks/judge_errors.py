"""`python -m tests.benchmarks.judge_errors`: how the exact judge errs on pictures that are known.

They are drawn from a specification, then blurred or drawn with some attributes wrong; for each kind
it prints mean scores, the share of attributes judged wrongly and how far unstated numbers are off.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import random_edit
from flash_ray.miniature.fit import fit, is_periodic, observable_numbers
from flash_ray.miniature.judge import ExactScore, judge_edit, judge_scene
from flash_ray.miniature.scenes import (
    EDIT_CATEGORIES,
    FACTORS,
    SLOTS,
    T2I_CATEGORIES,
    Scene,
    random_scene,
)

Array = np.ndarray
SLOT_COLORS = tuple(f"{slot}_colour" for slot in SLOTS)


def main() -> None:
    """Prints the judge's errors by category."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="pictures per category and kind")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    for category in T2I_CATEGORIES:
        _scene_table(category, arguments.count, arguments.seed)
    for category in EDIT_CATEGORIES:
        _edit_table(category, arguments.count, arguments.seed)


def fit_errors(scene: Scene, fitted: Scene) -> tuple[int, int]:
    """How many stated factors that show were found wrong, and how many there are."""
    hidden = {
        f"{s}_colour" for s in SLOTS if scene.category == "landscape" and not scene.factors[s]
    }
    names = [f.name for f in FACTORS[scene.category] if f.stated and f.name not in hidden]
    return sum(scene.factors[n] != fitted.factors[n] for n in names), len(names)


def number_errors(true: Scene, fitted: Scene) -> dict[str, float]:
    """Distance of each visible unstated number from the truth, around the circle if periodic."""
    errors = {}
    for name in observable_numbers(true):
        gap = abs(true.factors[name] - fitted.factors[name])
        errors[name] = min(gap, 1 - gap) if is_periodic(true, name) else gap
    return errors


def with_wrong(scene: Scene, count: int, rng: np.random.Generator) -> tuple[Scene, list[str]]:
    """The scene with `count` stated attributes changed, and their names.

    Ink and board stay apart; of landscapes only sky, ground and filled slots change.
    """
    names = [
        factor.name
        for factor in FACTORS[scene.category]
        if factor.stated and factor.name != "style" and not factor.name.endswith(SLOT_COLORS)
    ]
    names = [name for name in names if name not in SLOTS or scene.factors[name]]
    chosen = [str(name) for name in rng.permutation(names)[:count]]
    counts = {factor.name: len(factor.values or ()) for factor in FACTORS[scene.category]}
    while True:
        changed = scene.with_(
            **{n: int(rng.integers(1 if n in SLOTS else 0, counts[n])) for n in chosen}
        )
        same = any(changed.factors[n] == scene.factors[n] for n in chosen)
        if not same and ("ink" not in counts or changed.value("ink") != changed.value("board")):
            return changed, chosen


def softened(picture_3HW: Array, rng: np.random.Generator) -> Array:
    """Spoils a picture by more than a VAE does: a blur of 0.7 pixels, and noise of 0.03."""
    noise = rng.normal(0, 0.03, picture_3HW.shape)
    return np.clip(blurred(picture_3HW, 0.7) + noise, 0, 1).astype(np.float32)


def blurred(picture_3HW: Array, sigma: float) -> Array:
    """Blurs a picture by a Gaussian of `sigma` pixels."""
    return gaussian_filter(picture_3HW, (0, sigma, sigma), mode="nearest")


def _scene_table(category: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(category, rng) for _ in range(count)]
    pictures = draw(scenes)
    for label, spoil in (
        ("true", lambda picture: picture),
        ("blur 0.7, noise 0.03", lambda picture: softened(picture, rng)),
        ("blur 1", lambda picture: blurred(picture, 1)),
        ("blur 2", lambda picture: blurred(picture, 2)),
    ):
        start = time.process_time()
        scores = [
            judge_scene(spoil(picture), scene)
            for picture, scene in zip(pictures, scenes, strict=True)
        ]
        _summary(f"{category}, {label}", scores, time.process_time() - start)
        untold = [
            fit_errors(scene, fit(spoil(picture), category).scene)
            for picture, scene in zip(pictures, scenes, strict=True)
        ]
        wrong, total = np.sum(untold, 0)
        print(f"  wrong by the fit alone, which does not know what was asked: {wrong} of {total}")
        _attributes(scores)
        _numbers(scenes, scores)
    for wrong in (1, 2, 3):
        start = time.process_time()
        others = draw([with_wrong(scene, wrong, rng)[0] for scene in scenes])
        scores = [
            judge_scene(picture, scene) for picture, scene in zip(others, scenes, strict=True)
        ]
        _summary(f"{category}, {wrong} wrong", scores, time.process_time() - start)


def _edit_table(category: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edits = [random_edit(category, rng) for _ in range(count)]
    for label, answer in (
        ("true", lambda edit: edit.target_picture()),
        ("blur 0.7, noise 0.03", lambda edit: softened(edit.target_picture(), rng)),
        ("source unchanged", lambda edit: edit.source_picture()),
    ):
        start = time.process_time()
        scores = [judge_edit(answer(edit), edit) for edit in edits]
        _summary(f"edit {category}, {label}", scores, time.process_time() - start)


def _summary(label: str, scores: list[ExactScore], seconds: float) -> None:
    means = [
        float(np.mean([getattr(score, name) for score in scores]))
        for name in ("score", "compliance", "quality")
    ]
    credits = np.concatenate([list(score.attributes.values()) for score in scores])
    print(
        f"{label:24s} score {means[0]:.3f}  compliance {means[1]:.4f}  quality {means[2]:.3f}  "
        f"attribute errors {100 * (1 - credits.mean()):.2f} %  "
        f"{seconds / len(scores):.3f} s each",
        flush=True,
    )


def _attributes(scores: list[ExactScore]) -> None:
    credits: dict[str, list[float]] = {}
    for score in scores:
        for name, credit in score.attributes.items():
            credits.setdefault(name, []).append(credit)
    print(
        "  errors, %:", ", ".join(f"{n} {100 * (1 - np.mean(c)):.1f}" for n, c in credits.items())
    )


def _numbers(scenes: list[Scene], scores: list[ExactScore]) -> None:
    errors: dict[str, list[float]] = {}
    for scene, score in zip(scenes, scores, strict=True):
        for name, error in number_errors(scene, score.fitted).items():
            errors.setdefault(name, []).append(error)
    print("  numbers off by, mean:", ", ".join(f"{n} {np.mean(e):.3f}" for n, e in errors.items()))


if __name__ == "__main__":
    main()
