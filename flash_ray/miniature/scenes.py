"""What can be in a picture of the miniature world: categories, their factors, random scenes.

A scene is a category and one value per factor. A *stated* factor can appear in a caption and is an
index into named values; an *unstated* one is a number in [0, 1] that no caption mentions, so that
one caption has many right pictures. The world draws such a number from a few evenly spaced levels,
which a model of a few million parameters can learn to keep apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from flash_ray.recipe.schema import Task

T2I_CATEGORIES = ("landscape", "portrait", "text")
EDIT_CATEGORIES = ("scene", "enhancement", "object", "text", "identity", "style")
CATEGORIES: dict[Task, tuple[str, ...]] = {"t2i": T2I_CATEGORIES, "edit": EDIT_CATEGORIES}

COLOURS = ("red", "yellow", "green", "blue", "pink", "white")
LETTERS = tuple("ACEHKLMOSTUX")
SLOTS = ("left", "middle", "right")
STYLES = ("none", "sepia", "negative", "tiled", "hatched")


@dataclass(frozen=True)
class Factor:
    """One degree of freedom: named `values`, or None for a number, which has `levels`."""

    name: str
    values: tuple[str, ...] | None = None
    levels: int | None = None

    @property
    def stated(self) -> bool:
        """Whether captions can name it."""
        return self.values is not None


def _numbers(**levels: int) -> tuple[Factor, ...]:
    return tuple(Factor(name, levels=count) for name, count in levels.items())


_STYLE = (Factor("style", STYLES), *_numbers(style_phase=2))

FACTORS: dict[str, tuple[Factor, ...]] = {
    "landscape": (
        Factor("sky", ("day", "sunset", "night", "storm")),
        Factor("ground", ("grass", "sand", "snow", "water")),
        *(
            factor
            for slot in SLOTS
            for factor in (
                Factor(slot, ("none", "tree", "house", "tent", "flag")),
                Factor(f"{slot}_colour", COLOURS),
                *_numbers(**{f"{slot}_x": 2, f"{slot}_size": 2}),
            )
        ),
        *_numbers(horizon=2, hills=4, light=4, texture=2, tint=5),
        *_STYLE,
    ),
    "portrait": (
        Factor("backdrop", COLOURS),
        Factor("hair_colour", ("black", "brown", "blond", "ginger")),
        Factor("hair", ("short", "long", "curly")),
        Factor("wears", ("nothing", "glasses", "hat")),
        Factor("shirt", COLOURS),
        Factor("mouth", ("smile", "frown", "open")),
        *_numbers(x=2, y=2, size=2, skin=5, strands=2, gaze=2, tint=5),
        *_STYLE,
    ),
    "text": (
        Factor("letter_1", LETTERS),
        Factor("letter_2", LETTERS),
        Factor("letter_3", LETTERS),
        Factor("ink", COLOURS),
        Factor("board", COLOURS),
        Factor("pattern", ("plain", "stripes", "dots", "checks")),
        *_numbers(x=2, y=3, pattern_phase=2, tint=5),
        *_STYLE,
    ),
}


@dataclass(frozen=True)
class Scene:
    """A complete specification of one picture.

    `factors` maps every factor name of the category to an index (stated) or a number in [0, 1].
    """

    category: str
    factors: dict[str, float]

    def value(self, name: str) -> str:
        """The named value of a stated factor, e.g. `scene.value("sky") == "night"`."""
        return named_values(self.category, name)[int(self.factors[name])]

    def with_(self, **changes: float) -> Scene:
        """The scene with some factors changed."""
        return replace(self, factors={**self.factors, **changes})

    @property
    def objects(self) -> list[tuple[str, str]]:
        """Sorted (colour, kind) pairs of a landscape, whatever slots they stand in."""
        return [(colour, kind) for colour, kind, _ in self.placed_objects]

    @property
    def placed_objects(self) -> list[tuple[str, str, str]]:
        """Sorted (colour, kind, slot) of a landscape's objects."""
        present = [slot for slot in SLOTS if self.category == "landscape" and self.factors[slot]]
        return sorted((self.value(f"{slot}_colour"), self.value(slot), slot) for slot in present)

    @property
    def word(self) -> str:
        """The three letters of a sign."""
        return "".join(self.value(f"letter_{i}") for i in (1, 2, 3))


def named_values(category: str, name: str) -> tuple[str, ...]:
    """The values of a stated factor, in order; ValueError if it is a number."""
    values = next(factor.values for factor in FACTORS[category] if factor.name == name)
    if values is None:
        raise ValueError(f"{category}.{name} is a number, it has no named values")
    return values


def unstated(category: str) -> list[str]:
    """Names of the numeric factors of a category."""
    return [factor.name for factor in FACTORS[category] if not factor.stated]


def levels(category: str, name: str) -> np.ndarray:
    """The values in (0, 1) that the world gives an unstated factor, ascending, equally likely."""
    count = _level_count(category, name)
    return (np.arange(count) + 0.5) / count


@cache
def _level_count(category: str, name: str) -> int:
    count = next(factor.levels for factor in FACTORS[category] if factor.name == name)
    if count is None:
        raise ValueError(f"{category}.{name} has named values, not levels")
    return count


def random_numbers(
    category: str, names: Iterable[str], rng: np.random.Generator
) -> dict[str, float]:
    """A random level for each of some unstated factors."""
    # As rng.choice(levels(...)) has it, a tenth of the time.
    counts = {name: _level_count(category, name) for name in names}
    return {name: (int(rng.integers(count)) + 0.5) / count for name, count in counts.items()}


def random_scene(category: str, rng: np.random.Generator) -> Scene:
    """A scene of a category: independent uniform factors, but for the few rules of the world.

    One to three objects stand in a landscape; ink and board of a sign differ; no style.
    """
    factors: dict[str, float] = {
        factor.name: int(rng.integers(len(factor.values)))
        for factor in FACTORS[category]
        if factor.values is not None
    }
    factors |= random_numbers(category, unstated(category), rng)
    factors["style"] = 0
    if category == "landscape":
        filled = rng.permutation(3)[: rng.integers(1, 4)]
        for index, slot in enumerate(SLOTS):
            factors[slot] = int(rng.integers(1, 5)) if index in filled else 0
    if category == "text":
        factors["board"] = int((factors["ink"] + rng.integers(1, len(COLOURS))) % len(COLOURS))
    return Scene(category, factors)
