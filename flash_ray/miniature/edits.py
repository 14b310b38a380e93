"""Edits of the miniature world: a source picture, an instruction, the scene it asks for.

An edit says which stated factors it changes, which factors have to stay, and leaves the rest free:
as with real pictures, one instruction has many right answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flash_ray.miniature.draw import draw
from flash_ray.miniature.scenes import (
    COLOURS,
    FACTORS,
    LETTERS,
    SLOTS,
    STYLES,
    T2I_CATEGORIES,
    Scene,
    named_values,
    random_numbers,
    random_scene,
)

DEGRADATIONS = ("blurred", "noisy", "faded", "scratched")
_POSE = ("x", "y", "size", "gaze", "tint")


@dataclass(frozen=True)
class Edit:
    """An edit's whole specification.

    Attributes:
        category: one of `EDIT_CATEGORIES`.
        operation: what is asked, e.g. `("set", "sky")`, `("add", "left")`, `("restore", "noisy")`.
        source: the scene of the input picture; drawn, then degraded if `degradation` is set.
        target: one right answer; factors in neither `changed` nor `kept` are free.
        changed: stated factors whose value in `target` the instruction asks for.
        kept: factors that must stay as they are in `source`.
        seed: of the degradation's noise.
    """

    category: str
    operation: tuple[str, str]
    source: Scene
    target: Scene
    changed: tuple[str, ...]
    kept: tuple[str, ...]
    degradation: str | None = None
    seed: int = 0

    def source_picture(self) -> np.ndarray:
        """The input, `(3, 64, 64)` float32 in [0, 1]."""
        picture = draw([self.source])[0]
        return degrade(picture, self.degradation, self.seed) if self.degradation else picture

    def target_picture(self) -> np.ndarray:
        return draw([self.target])[0]


def degrade(picture_3HW: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Spoils a picture in one of `DEGRADATIONS`; `seed` fixes its noise."""
    rng = np.random.default_rng(seed)
    size = picture_3HW.shape[-1]
    if kind == "blurred":
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(picture_3HW, (0, 1.8, 1.8), mode="nearest")
    if kind == "noisy":
        return np.clip(picture_3HW + rng.normal(0, 0.16, picture_3HW.shape), 0, 1).astype(
            np.float32
        )
    if kind == "faded":
        return (0.62 + 0.26 * (picture_3HW - 0.5)).astype(np.float32)
    if kind != "scratched":
        raise ValueError(f"degradation {kind!r}: allowed are {', '.join(DEGRADATIONS)}")
    spoilt = picture_3HW.copy()
    rows = np.arange(size)
    for _ in range(5):
        columns = np.clip(rng.uniform(0, size) + np.cumsum(rng.normal(0, 0.5, size)), 0, size - 2)
        spoilt[:, rows, columns.astype(int)] = 0.95
        spoilt[:, rows, columns.astype(int) + 1] = 0.95
    return spoilt


def _all_but(category: str, *names: str) -> tuple[str, ...]:
    return tuple(f.name for f in FACTORS[category] if f.name not in names)


def _other(rng: np.random.Generator, count: int, *taken: float) -> int:
    """A random index below `count` that is none of `taken`."""
    return int(rng.choice([i for i in range(count) if i not in taken]))


def _redrawn(scene: Scene, names: tuple[str, ...], rng: np.random.Generator) -> Scene:
    return scene.with_(**random_numbers(scene.category, names, rng))


def _set(category: str, source: Scene, factor: str, free: tuple[str, ...], rng) -> Edit:
    """Changes one stated factor and draws the `free` ones anew."""
    count = len(named_values(source.category, factor))
    taken = [source.factors[factor]]
    if source.category == "text" and factor in ("ink", "board"):  # must stay apart
        taken = [source.factors["ink"], source.factors["board"]]
    target = _redrawn(source, free, rng).with_(**{factor: _other(rng, count, *taken)})
    kept = _all_but(source.category, factor, *free)
    return Edit(category, ("set", factor), source, target, (factor,), kept)


def _scene_edit(rng: np.random.Generator) -> Edit:
    source = random_scene(T2I_CATEGORIES[rng.integers(3)], rng)
    if source.category == "landscape":
        factor = ("sky", "ground")[rng.integers(2)]
        return _set("scene", source, factor, ("horizon", "hills", "light", "texture", "tint"), rng)
    if source.category == "portrait":
        return _set("scene", source, "backdrop", ("tint",), rng)
    factor = ("board", "pattern")[rng.integers(2)]
    return _set("scene", source, factor, ("pattern_phase", "tint"), rng)


def _enhancement_edit(rng: np.random.Generator) -> Edit:
    scene = random_scene(T2I_CATEGORIES[rng.integers(3)], rng)
    kind = DEGRADATIONS[rng.integers(len(DEGRADATIONS))]
    kept = _all_but(scene.category)
    seed = int(rng.integers(2**31))
    return Edit("enhancement", ("restore", kind), scene, scene, (), kept, kind, seed)


def _object_edit(rng: np.random.Generator) -> Edit:
    source = random_scene("landscape", rng)
    filled = [slot for slot in SLOTS if source.factors[slot]]
    empty = [slot for slot in SLOTS if not source.factors[slot]]
    operation = (
        ("add", "remove", "recolour")[rng.integers(3)]
        if empty
        else ("remove", "recolour")[rng.integers(2)]
    )
    slot = str(rng.choice(empty if operation == "add" else filled))
    own = (slot, f"{slot}_colour", f"{slot}_x", f"{slot}_size")
    if operation == "add":
        new = {slot: int(rng.integers(1, 5)), f"{slot}_colour": int(rng.integers(len(COLOURS)))}
        target = _redrawn(source, own[2:], rng).with_(**new)
        # The new object may stand in any free slot, so no empty slot has to stay as it is.
        loose = [n for s in empty for n in (s, f"{s}_colour", f"{s}_x", f"{s}_size")]
        kept, changed = _all_but("landscape", *loose), (slot, f"{slot}_colour")
    elif operation == "remove":
        target, changed = source.with_(**{slot: 0}), (slot,)
        kept = _all_but("landscape", *own)
    else:
        colour = f"{slot}_colour"
        target = source.with_(**{colour: _other(rng, len(COLOURS), source.factors[colour])})
        changed, kept = (colour,), _all_but("landscape", colour)
    return Edit("object", (operation, slot), source, target, changed, kept)


def _text_edit(rng: np.random.Generator) -> Edit:
    source = random_scene("text", rng)
    if rng.integers(2):
        return _set("text", source, "ink", (), rng)
    letters = tuple(f"letter_{i}" for i in (1, 2, 3))
    place = ("x", "y")
    target = _redrawn(source, place, rng)
    while target.word == source.word:
        target = target.with_(**{name: int(rng.integers(len(LETTERS))) for name in letters})
    kept = _all_but("text", *letters, *place)
    return Edit("text", ("write", "word"), source, target, letters, kept)


def _identity_edit(rng: np.random.Generator) -> Edit:
    """The same person in another photograph: one thing changed, the pose free."""
    source = random_scene("portrait", rng)
    factor = ("hair_colour", "hair", "wears", "shirt", "mouth")[rng.integers(5)]
    return _set("identity", source, factor, (*_POSE, "strands"), rng)


def _style_edit(rng: np.random.Generator) -> Edit:
    source = random_scene(T2I_CATEGORIES[rng.integers(3)], rng)
    target = _redrawn(source, ("style_phase",), rng).with_(style=int(rng.integers(1, len(STYLES))))
    kept = _all_but(source.category, "style", "style_phase")
    return Edit("style", ("set", "style"), source, target, ("style",), kept)


_MAKERS = {
    "scene": _scene_edit,
    "enhancement": _enhancement_edit,
    "object": _object_edit,
    "text": _text_edit,
    "identity": _identity_edit,
    "style": _style_edit,
}


def random_edit(category: str, rng: np.random.Generator) -> Edit:
    """A random edit of one of `EDIT_CATEGORIES`."""
    return _MAKERS[category](rng)
