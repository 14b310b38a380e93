"""Edits of the miniature world: a source picture, an instruction, the scene it asks for.

An edit says which stated factors it changes, which factors have to stay, and leaves the rest free.
Restoring a picture and giving it a style keep its layout. All other edits ask for another
photograph, as the pairs that are found on the web: what captions state stays, who the person is
too, and the rest is drawn anew, so that one instruction has many right answers.
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
    unstated,
)

DEGRADATIONS = ("blurred", "noisy", "faded", "scratched")


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
        """One right answer, `(3, 64, 64)` float32 in [0, 1]."""
        return draw([self.target])[0]


def degrade(picture_3HW: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """Spoils a picture in one of `DEGRADATIONS`; `seed` fixes its noise."""
    rng = np.random.default_rng(seed)
    size = picture_3HW.shape[-1]
    if kind == "blurred":
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(picture_3HW, (0, 2.6, 2.6), mode="nearest")
    if kind == "noisy":
        return np.clip(picture_3HW + rng.normal(0, 0.3, picture_3HW.shape), 0, 1).astype(np.float32)
    if kind == "faded":
        return (0.62 + 0.12 * (picture_3HW - 0.5)).astype(np.float32)
    if kind != "scratched":
        raise ValueError(f"degradation {kind!r}: allowed are {', '.join(DEGRADATIONS)}")
    spoilt = picture_3HW.copy()
    rows = np.arange(size)
    for _ in range(7):
        columns = np.clip(rng.uniform(0, size) + np.cumsum(rng.normal(0, 0.5, size)), 0, size - 3)
        for offset in range(3):
            spoilt[:, rows, columns.astype(int) + offset] = 0.95
    return spoilt


def _all_but(category: str, *names: str) -> tuple[str, ...]:
    return tuple(f.name for f in FACTORS[category] if f.name not in names)


def _other(rng: np.random.Generator, count: int, *taken: float) -> int:
    """A random index below `count` that is none of `taken`."""
    return int(rng.choice([i for i in range(count) if i not in taken]))


def _varying(category: str) -> tuple[str, ...]:
    """Factors that may differ between two photographs of the same thing."""
    return tuple(name for name in unstated(category) if name not in ("skin", "style_phase"))


def _another_photograph(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another photograph of the same thing."""
    return scene.with_(**random_numbers(scene.category, _varying(scene.category), rng))


def _set(category: str, source: Scene, factor: str, rng: np.random.Generator) -> Edit:
    """Another photograph, with one stated factor changed."""
    count = len(named_values(source.category, factor))
    taken = [source.factors[factor]]
    if source.category == "text" and factor in ("ink", "board"):  # must stay apart
        taken = [source.factors["ink"], source.factors["board"]]
    target = _another_photograph(source, rng).with_(**{factor: _other(rng, count, *taken)})
    kept = _all_but(source.category, factor, *_varying(source.category))
    return Edit(category, ("set", factor), source, target, (factor,), kept)


def _scene_edit(rng: np.random.Generator) -> Edit:
    source = random_scene(T2I_CATEGORIES[rng.integers(3)], rng)
    surroundings = {
        "landscape": ("sky", "ground"),
        "portrait": ("backdrop",),
        "text": ("board", "pattern"),
    }[source.category]
    return _set("scene", source, str(rng.choice(surroundings)), rng)


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
    colour, free = f"{slot}_colour", _varying("landscape")
    target = _another_photograph(source, rng)
    changed: tuple[str, ...]
    if operation == "add":
        new = {slot: int(rng.integers(1, 5)), colour: int(rng.integers(len(COLOURS)))}
        # The new object may stand in any free slot, so no empty slot has to stay as it is.
        loose = [name for empty_slot in empty for name in (empty_slot, f"{empty_slot}_colour")]
        changed, kept = (slot, colour), _all_but("landscape", *loose, *free)
    elif operation == "remove":
        new, changed = {slot: 0}, (slot,)
        kept = _all_but("landscape", slot, colour, *free)
    else:
        new, changed = {colour: _other(rng, len(COLOURS), source.factors[colour])}, (colour,)
        kept = _all_but("landscape", colour, *free)
    return Edit("object", (operation, slot), source, target.with_(**new), changed, kept)


def _text_edit(rng: np.random.Generator) -> Edit:
    source = random_scene("text", rng)
    if rng.integers(2):
        return _set("text", source, "ink", rng)
    letters = tuple(f"letter_{i}" for i in (1, 2, 3))
    target = _another_photograph(source, rng)
    while target.word == source.word:
        target = target.with_(**{name: int(rng.integers(len(LETTERS))) for name in letters})
    kept = _all_but("text", *letters, *_varying("text"))
    return Edit("text", ("write", "word"), source, target, letters, kept)


def _identity_edit(rng: np.random.Generator) -> Edit:
    source = random_scene("portrait", rng)
    factor = ("hair_colour", "hair", "wears", "shirt", "mouth")[rng.integers(5)]
    return _set("identity", source, factor, rng)


def _style_edit(rng: np.random.Generator) -> Edit:
    source = random_scene(T2I_CATEGORIES[rng.integers(3)], rng)
    phase = random_numbers(source.category, ("style_phase",), rng)
    target = source.with_(**phase, style=int(rng.integers(1, len(STYLES))))
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
