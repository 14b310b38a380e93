"""Analysis by synthesis: finds the scene whose rendering is closest to a picture.

A search starts from the nearest of many random scenes (and from given ones), tries every named
value and level at 16, then 32, then 64 pixels, and in between moves all numbers at once
by damped least squares on finite differences of the renderer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from flash_ray.miniature.draw import draw, draw_factors
from flash_ray.miniature.scenes import (
    FACTORS,
    SLOTS,
    STYLES,
    Scene,
    levels,
    named_values,
    random_scene,
    unstated,
)

Array = np.ndarray

_BANK = 3000  # random scenes per category that a search may start from
_STYLED_BANK = 1000  # the same, for each style but "none"
_NEAREST = 3  # starts taken from the bank
_PROBE = 0.02  # step of the finite differences, a share of a factor's range
_DAMPINGS = (0.0, 0.1, 1.0, 10.0, 100.0)
_NEAR = 5e-4  # mean square error at which no other start is tried
_UNSEEN = 1e-7  # keeps factors without effect where they are


@dataclass(frozen=True)
class Fitted:
    """What a picture was found to show.

    Attributes:
        scene: the closest scene; factors without effect (an empty slot's size) are arbitrary.
        distance: root mean square difference between the picture and `rendering`, in [0, 1].
        rendering: the scene drawn, `(3, 64, 64)` float32.
    """

    scene: Scene
    distance: float
    rendering: Array


_Step = tuple[str, ...]  # the factors whose values are tried together


@dataclass(frozen=True)
class _Stage:
    """One round of the search: the `keep` best scenes so far go through `steps` at a size."""

    size: int
    keep: int
    steps: list[_Step]


_LANDSCAPE: list[_Step] = [
    ("horizon", "hills"),
    ("sky", "light"),
    ("ground", "texture"),
    *((slot, f"{slot}_colour", f"{slot}_x") for slot in SLOTS),
    *((f"{slot}_x", f"{slot}_size") for slot in SLOTS),
    ("tint",),
]
_PORTRAIT: list[_Step] = [
    ("x", "y", "size"),
    ("backdrop", "shirt"),
    ("hair", "hair_colour", "wears"),
    ("skin", "tint"),
    ("mouth", "gaze"),
    ("strands",),
]
_LETTERS: list[_Step] = [("letter_1",), ("letter_2",), ("letter_3",)]
_TEXT: list[_Step] = [
    ("board", "ink"),
    ("pattern", "pattern_phase"),
    ("x", "y"),
    ("ink",),
    ("board", "tint"),
    *_LETTERS,
    ("x", "y"),
    *_LETTERS,
    ("pattern", "pattern_phase"),
]


def _singly(*names: str) -> list[_Step]:
    return [(name,) for name in names]


# Every combination of the values of one step's factors is tried at once, step after step.
_STAGES: dict[str, list[_Stage]] = {
    "landscape": [
        _Stage(16, 5, _LANDSCAPE),
        _Stage(32, 3, _LANDSCAPE),
        _Stage(64, 1, _singly("sky", "ground", *SLOTS, *(f"{slot}_colour" for slot in SLOTS))),
    ],
    "portrait": [
        _Stage(16, 5, _PORTRAIT),
        _Stage(32, 3, _PORTRAIT),
        _Stage(64, 1, _singly("backdrop", "hair_colour", "hair", "wears", "shirt", "mouth")),
    ],
    "text": [  # letters are too thin for 16 pixels
        _Stage(32, 3, _TEXT),
        _Stage(64, 1, [("pattern",), ("board",), ("ink",), *_LETTERS]),
    ],
}


def observable_numbers(scene: Scene) -> list[str]:
    """The unstated factors that show in a scene's picture (an empty slot's size does not)."""
    hidden = set()
    if scene.category == "landscape":
        for slot in SLOTS:
            if not scene.factors[slot]:
                hidden |= {f"{slot}_x", f"{slot}_size"}
    if scene.category == "text" and scene.value("pattern") == "plain":
        hidden.add("pattern_phase")
    if scene.value("style") in ("none", "negative"):
        hidden.add("style_phase")
    return [f.name for f in FACTORS[scene.category] if not f.stated and f.name not in hidden]


def is_periodic(scene: Scene, name: str) -> bool:
    """Whether 0 and 1 of a number give the same picture."""
    if name == "style_phase":
        return scene.value("style") != "sepia"
    return name in ("texture", "hills", "strands", "pattern_phase")


def fit(
    picture_3HW: Array,
    category: str,
    starts: Iterable[Scene] = (),
    styles: Sequence[str] = ("none",),
) -> Fitted:
    """Finds the scene whose rendering is closest to a picture in mean square.

    Args:
        picture_3HW: `(3, 64, 64)` float32 in [0, 1].
        category: of the scenes to try.
        starts: scenes to start from as well; the closest end counts, wherever it started.
        styles: the styles to try.
    """
    search = _Search(picture_3HW, category, styles)
    scenes = [*starts, *search.nearest()]
    for stage in _STAGES[category]:
        scenes = search.advanced(scenes, stage)
    return search.fitted(scenes[0])


def distance_with(picture_3HW: Array, scene: Scene, **forced: float) -> float:
    """Root mean square distance of a picture to a scene with some factors forced to given values.

    The scene's other numbers move to where they fit best; its other named values stay.
    """
    search = _Search(picture_3HW, scene.category, (scene.value("style"),))
    changed = scene.with_(**forced)
    free = [name for name in observable_numbers(changed) if name not in forced]
    return float(np.sqrt(search.error(search.polished(changed, 64, 3, free), 64)))


@cache
def _bank(category: str, style: str) -> tuple[list[Scene], Array]:
    """Random scenes of a style and their pictures at 16 pixels, `(n, 768)`."""
    rng = np.random.default_rng(20_260_101)
    scenes = [
        random_scene(category, rng).with_(style=STYLES.index(style))
        for _ in range(_BANK if style == "none" else _STYLED_BANK)
    ]
    chunks = [scenes[start : start + 250] for start in range(0, len(scenes), 250)]
    pictures = np.concatenate([_shrunk(draw(chunk, 32), 16) for chunk in chunks])
    return scenes, pictures.reshape(len(scenes), -1)


def _shrunk(pictures: Array, size: int) -> Array:
    """Pictures `(..., n, n)` averaged down to `(..., size, size)`."""
    step = pictures.shape[-1] // size
    return pictures.reshape(*pictures.shape[:-2], size, step, size, step).mean((-3, -1))


class _Search:
    """Moves scenes of one category closer to one picture."""

    def __init__(self, picture_3HW: Array, category: str, styles: Sequence[str]):
        if picture_3HW.shape != (3, 64, 64):
            raise ValueError(f"picture: shape {picture_3HW.shape}; allowed is (3, 64, 64)")
        self.category, self.styles = category, styles
        self.targets = {
            size: _shrunk(picture_3HW.astype(np.float32), size) for size in (16, 32, 64)
        }

    def nearest(self) -> list[Scene]:
        """The random scenes whose small pictures are closest to this one."""
        found = []
        for style in self.styles:
            scenes, pictures_ND = _bank(self.category, style)
            distances_N = np.square(pictures_ND - self.targets[16].ravel()).mean(1)
            closest = np.argsort(distances_N)[:_NEAREST]
            found += [(distances_N[index], scenes[index]) for index in closest]
        return [scene for _, scene in sorted(found, key=lambda pair: pair[0])[:_NEAREST]]

    def error(self, scene: Scene, size: int) -> float:
        return float(self._errors(scene, {}, size)[0])

    def advanced(self, scenes: list[Scene], stage: _Stage) -> list[Scene]:
        """The best of the scenes after a stage, best first; stops early at a near-perfect one."""
        ends: list[tuple[float, Scene]] = []
        ranked = sorted(scenes, key=lambda scene: self.error(scene, stage.size))
        for scene in ranked[: stage.keep]:
            end = self.swept(self.polished(scene, stage.size, 2), stage)
            ends.append((self.error(end, stage.size), end))
            if ends[-1][0] < _NEAR:
                break
        return [end for _, end in sorted(ends, key=lambda pair: pair[0])]

    def fitted(self, scene: Scene) -> Fitted:
        rendering = self._drawn(scene, {}, 64)[0]
        distance = float(np.sqrt(np.square(rendering - self.targets[64]).mean()))
        return Fitted(scene, distance, rendering)

    def swept(self, scene: Scene, stage: _Stage) -> Scene:
        """The scene after one stage, its numbers then polished."""
        for step in (*self._style_steps(), *stage.steps):
            scene = self._tried(scene, step, stage.size)
        return self.polished(scene, stage.size, 4)

    def _style_steps(self) -> list[_Step]:
        if tuple(self.styles) == ("none",):
            return []
        return [("style", "style_phase")]

    def polished(
        self, scene: Scene, size: int, rounds: int, names: list[str] | None = None
    ) -> Scene:
        """Moves the named numbers (default: all that show) together by damped least squares."""
        names = observable_numbers(scene) if names is None else names
        error = self.error(scene, size)
        for _ in range(rounds):
            moved, after = self._moved(scene, names, size)
            if after >= error:
                break
            gain, scene, error = error - after, moved, after
            if gain < 0.002 * error or error < 1e-9:
                break
        return scene

    def _moved(self, scene: Scene, names: list[str], size: int) -> tuple[Scene, float]:
        """The best of a few damped Gauss-Newton steps from a scene, and its error."""
        at_N = np.array([scene.factors[name] for name in names])
        probe_N = np.where(at_N < 0.5, _PROBE, -_PROBE)
        probes_MN = np.concatenate([at_N[None], at_N + np.diag(probe_N)])
        drawn_MD = self._drawn(scene, dict(zip(names, probes_MN.T, strict=True)), size)
        drawn_MD = drawn_MD.reshape(len(probes_MN), -1)
        slope_ND = (drawn_MD[1:] - drawn_MD[0]) / probe_N[:, None].astype(np.float32)
        gap_D = drawn_MD[0] - self.targets[size].ravel()
        curve_NN, pull_N = slope_ND @ slope_ND.T / gap_D.size, slope_ND @ gap_D / gap_D.size
        steps_KN = np.stack(
            [
                np.linalg.solve(curve_NN + np.diag(damping * np.diag(curve_NN) + _UNSEEN), -pull_N)
                for damping in _DAMPINGS
            ]
        )
        wraps_N = np.array([is_periodic(scene, name) for name in names])
        to_KN = at_N + np.clip(steps_KN, -0.3, 0.3)
        to_KN = np.where(wraps_N, to_KN % 1, np.clip(to_KN, 0, 1))
        errors_K = self._errors(scene, dict(zip(names, to_KN.T, strict=True)), size)
        best = int(errors_K.argmin())
        moved = dict(zip(names, to_KN[best].tolist(), strict=True))
        return scene.with_(**moved), float(errors_K[best])

    def _tried(self, scene: Scene, step: _Step, size: int) -> Scene:
        """The best of the scene itself and every combination of a step's values."""
        choices = [self._values(name) for name in step]
        table_KN = np.array(list(product(*choices)))
        changes = dict(zip(step, table_KN.T, strict=True))
        changes = {name: np.append(values, scene.factors[name]) for name, values in changes.items()}
        best = int(self._errors(scene, changes, size).argmin())
        return scene.with_(**{name: float(values[best]) for name, values in changes.items()})

    def _values(self, name: str) -> Iterable[float]:
        if name in unstated(self.category):
            return levels(self.category, name)
        named = named_values(self.category, name)
        return [named.index(v) for v in (self.styles if name == "style" else named)]

    def _errors(self, scene: Scene, changes: dict[str, Array], size: int) -> Array:
        """Mean square differences `(K,)` of the scene's variants from the picture."""
        gaps = self._drawn(scene, changes, size).reshape(-1, 3 * size * size)
        gaps -= self.targets[size].ravel()
        errors_K = np.einsum("kd,kd->k", gaps, gaps) / gaps.shape[1]
        if self.category == "text":  # letters in the board's colour could be any letters
            ink, board = (changes.get(n, scene.factors[n]) for n in ("ink", "board"))
            errors_K = np.where(np.equal(ink, board), np.inf, errors_K)
        return errors_K

    def _drawn(self, scene: Scene, changes: dict[str, Array], size: int) -> Array:
        count = len(next(iter(changes.values()))) if changes else 1
        columns = {
            name: changes[name] if name in changes else np.full(count, value, np.float32)
            for name, value in scene.factors.items()
        }
        return draw_factors(self.category, columns, size)
