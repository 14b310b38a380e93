"""Draws scenes of the miniature world: a batch of specifications in, pictures out.

Every shape is a signed distance (pixels of a 64x64 picture, negative inside) turned into coverage,
so a picture changes smoothly with its numbers and can be drawn at any size. Patterns repeat every
16 pixels, the side of a latent token, and most places step by parts of that: a small model then has
few different tokens to learn, but still how they belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flash_ray.miniature.glyphs import GLYPHS
from flash_ray.miniature.scenes import FACTORS, SLOTS, Scene

Array = np.ndarray


def _rgb(*colours: tuple[int, int, int]) -> Array:
    return np.array(colours, np.float32) / 255


NAMED = _rgb(
    (208, 48, 44), (242, 206, 58), (58, 160, 74), (48, 96, 206), (238, 118, 186), (240, 240, 240)
)  # the order of scenes.COLOURS
SKY_TOP = _rgb((84, 156, 236), (92, 58, 142), (10, 14, 48), (70, 78, 92))
SKY_LOW = _rgb((190, 226, 250), (250, 156, 84), (44, 54, 108), (152, 158, 164))
GROUND = _rgb((76, 150, 62), (224, 194, 130), (236, 242, 250), (40, 104, 172))
GROUND_MARK = _rgb((44, 104, 40), (186, 150, 88), (176, 200, 226), (132, 184, 228))
HAIR = _rgb((34, 30, 32), (112, 70, 40), (228, 192, 106), (196, 92, 36))
SKIN_LIGHT, SKIN_DARK = _rgb((250, 216, 188), (132, 84, 58))
DARK, WOOD, MOON, SUN = _rgb((30, 28, 34), (98, 66, 42), (240, 240, 216), (255, 232, 110))


class Canvas:
    """A batch of pictures being painted: `rgb_B3HW` in [0, 1] and pixel coordinates in 64ths."""

    def __init__(self, batch: int, size: int):
        self.rgb_B3HW = np.zeros((batch, 3, size, size), np.float32)
        self.unit = 64 / size
        centres = (np.arange(size, dtype=np.float32) + 0.5) * self.unit
        self.x, self.y = centres[None, None, :], centres[None, :, None]

    def cover(self, distance: Array) -> Array:
        """Coverage in [0, 1] of the shape with this signed distance."""
        return np.clip(0.5 - distance / self.unit, 0, 1)

    def paint(
        self,
        cover_BHW: Array,
        colour: Array,
        rows: Array | slice = slice(None),
        corner: tuple[int, int] = (0, 0),
    ) -> None:
        """Lays a colour, `(3,)` or `(B, 3)`, over the pictures in `rows`.

        Args:
            corner: the row and column of a picture's pixel where the cover begins.
        """
        # Only where a cover is not 0 does anything change.
        v, u = _span(cover_BHW.any((0, 2))), _span(cover_BHW.any((0, 1)))
        cover_B1VU = cover_BHW[:, None, v, u]
        at = (
            rows,
            slice(None),
            slice(v.start + corner[0], v.stop + corner[0]),
            slice(u.start + corner[1], u.stop + corner[1]),
        )
        colour_B311 = np.asarray(colour, np.float32).reshape(-1, 3, 1, 1)
        below = self.rgb_B3HW[at]
        self.rgb_B3HW[at] = below + cover_B1VU * (colour_B311 - below)


def _span(hit_N: Any) -> slice:
    """From the first that is hit to behind the last."""
    (hits,) = np.nonzero(hit_N)
    return slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0)


def _column(values: Array) -> Array:
    return np.asarray(values, np.float32)[:, None, None]


def _disc(canvas: Canvas, x: Array, y: Array | float, r: Array | float) -> Array:
    return np.hypot(canvas.x - x, canvas.y - y) - r


def _ellipse(canvas: Canvas, x: Array, y: Array, rx: Array, ry: Array) -> Array:
    # Scaled distance: exact on the outline, close enough within a pixel of it.
    return (np.hypot((canvas.x - x) / rx, (canvas.y - y) / ry) - 1) * np.minimum(rx, ry)


def _box(canvas: Canvas, x: Array, y: Array, half_w: Array, half_h: Array) -> Array:
    return np.maximum(np.abs(canvas.x - x) - half_w, np.abs(canvas.y - y) - half_h)


def _triangle(canvas: Canvas, x: Array, top: Array, half_w: Array, height: Array) -> Array:
    """An upright isosceles triangle: apex at (x, top)."""
    down = canvas.y - top
    slope = half_w / height
    side = (np.abs(canvas.x - x) - down * slope) / np.sqrt(1 + slope**2)
    return np.maximum(side, down - height)


def _wave(value: Array, period: float) -> Array:
    """Signed distance to stripes as wide as their gaps, `period` apart."""
    return np.abs((value % period) - period / 2) - period / 4


def _pattern(canvas: Canvas, kind: Array, phase: Array, colour: Array) -> None:
    """The boards' patterns: 1 stripes, 2 dots, 3 checks, in a shade of the board's colour."""
    shade = colour * 0.72
    shift = phase * 16
    for index in (1, 2, 3):
        rows = np.flatnonzero(kind == index)
        if not rows.size:
            continue
        s = _column(shift[rows])
        if index == 1:
            distance = _wave(canvas.x + canvas.y + s, 16) * 0.7
        elif index == 2:
            dx, dy = (canvas.x + s) % 16 - 8, (canvas.y + s) % 16 - 8
            distance = np.hypot(dx, dy) - 4.4
        else:
            a, b = _wave(canvas.x + s, 16), _wave(canvas.y + 0 * s, 16)
            distance = np.where(np.minimum(a, b) > 0, -np.minimum(a, b), np.maximum(a, b))
        canvas.paint(canvas.cover(distance), shade[rows], rows)


def _landscape_object(
    canvas: Canvas, rows: Array, kind: int, x: Array, base: Array, s: Array, colour: Array
) -> None:
    if kind == 1:  # tree
        canvas.paint(canvas.cover(_box(canvas, x, base - 5 * s, 1.7 * s, 5 * s)), WOOD, rows)
        canvas.paint(canvas.cover(_disc(canvas, x, base - 15 * s, 7.2 * s)), colour, rows)
        canvas.paint(
            canvas.cover(_disc(canvas, x + 2 * s, base - 13 * s, 3.2 * s)) * 0.6,
            colour * 0.55,
            rows,
        )
    elif kind == 2:  # house
        canvas.paint(canvas.cover(_box(canvas, x, base - 5.5 * s, 7 * s, 5.5 * s)), colour, rows)
        canvas.paint(canvas.cover(_triangle(canvas, x, base - 19 * s, 9 * s, 8 * s)), WOOD, rows)
        canvas.paint(
            canvas.cover(_box(canvas, x - 2.5 * s, base - 3 * s, 1.8 * s, 3 * s)), DARK, rows
        )
        canvas.paint(
            canvas.cover(_box(canvas, x + 3 * s, base - 6.5 * s, 1.7 * s, 1.7 * s)), SUN, rows
        )
    elif kind == 3:  # tent
        canvas.paint(canvas.cover(_triangle(canvas, x, base - 15 * s, 9 * s, 15 * s)), colour, rows)
        canvas.paint(canvas.cover(_triangle(canvas, x, base - 9 * s, 3.2 * s, 9 * s)), DARK, rows)
    else:  # flag
        canvas.paint(
            canvas.cover(_box(canvas, x - 5 * s, base - 11 * s, 1.3 * s, 11 * s)), DARK, rows
        )
        canvas.paint(
            canvas.cover(_box(canvas, x + 1.5 * s, base - 17.5 * s, 6 * s, 4.5 * s)), colour, rows
        )


def _draw_landscape(canvas: Canvas, f: dict[str, Array]) -> None:
    sky, ground = f["sky"].astype(int), f["ground"].astype(int)
    horizon = _column(28 + 16 * f["horizon"])
    light = _column(64 * f["light"])
    depth = np.clip(canvas.y / horizon, 0, 1)[:, None]
    top, low = SKY_TOP[sky][:, :, None, None], SKY_LOW[sky][:, :, None, None]
    canvas.rgb_B3HW[:] = top + (low - top) * depth
    for kind in range(4):
        rows = np.flatnonzero(sky == kind)
        if not rows.size:
            continue
        x, line = light[rows], horizon[rows]
        if kind == 0:
            canvas.paint(canvas.cover(_disc(canvas, x, 10, 5.5)), SUN, rows)
        elif kind == 1:
            canvas.paint(
                canvas.cover(_disc(canvas, x, line - 4, 9)), np.array([1, 0.86, 0.5]), rows
            )
        elif kind == 2:
            crescent = np.maximum(_disc(canvas, x, 10, 5.5), -_disc(canvas, x + 3.5, 8.5, 4.5))
            canvas.paint(canvas.cover(crescent), MOON, rows)
            stars = np.hypot((canvas.x - x + 8) % 16 - 8, (canvas.y + 8) % 16 - 8) - 1.1
            canvas.paint(canvas.cover(np.maximum(stars, 14 - np.abs(canvas.x - x))), MOON, rows)
        else:
            for dx, dy, r in ((-7, 12, 5), (0, 9, 6.5), (7, 12, 5)):
                canvas.paint(canvas.cover(_disc(canvas, x + dx, dy, r)), np.full(3, 0.24), rows)
    hill = horizon - 3.5 * np.sin(2 * np.pi * (canvas.x / 64 + _column(f["hills"])))
    land = canvas.cover(hill - canvas.y)
    canvas.paint(land, GROUND[ground])
    shift = _column(f["texture"] * 16)
    below = canvas.y - hill
    for kind in range(4):
        rows = np.flatnonzero(ground == kind)
        if not rows.size:
            continue
        s, d = shift[rows], below[rows]
        if kind == 0:
            marks = np.maximum(
                np.abs((canvas.x + s + 8 * (canvas.y // 8 % 2)) % 16 - 8) - 1.4,
                np.abs(canvas.y % 8 - 4) - 2.5,
            )
        elif kind == 1:
            marks = np.abs((d + 1.8 * np.sin((canvas.x + s) * np.pi / 8)) % 8 - 4) - 0.9
        elif kind == 2:
            marks = np.hypot((canvas.x + s) % 16 - 8, (canvas.y % 8 - 4) * 1.6) - 2.6
        else:
            marks = np.maximum(
                np.abs((canvas.x + s + 8 * (canvas.y // 8 % 2)) % 16 - 8) - 4.2,
                np.abs(canvas.y % 8 - 4) - 1.0,
            )
        canvas.paint(canvas.cover(np.maximum(marks, 3 - d)), GROUND_MARK[ground[rows]], rows)
    for index, slot in enumerate(SLOTS):
        for kind in range(1, 5):
            rows = np.flatnonzero(f[slot].astype(int) == kind)
            if not rows.size:
                continue
            s = _column(0.8 + 0.4 * f[f"{slot}_size"][rows])
            x = _column(12 + 20 * index + 8 * (f[f"{slot}_x"][rows] - 0.5))
            base = horizon[rows] + 5 + 7 * s
            colour = NAMED[f[f"{slot}_colour"][rows].astype(int)]
            _landscape_object(canvas, rows, kind, x, base, s, colour)


def _draw_portrait(canvas: Canvas, f: dict[str, Array]) -> None:
    backdrop = NAMED[f["backdrop"].astype(int)]
    canvas.rgb_B3HW[:] = backdrop[:, :, None, None] * 0.9
    canvas.rgb_B3HW *= (1.1 - 0.25 * np.hypot(canvas.x - 32, canvas.y - 32) / 45)[:, None]
    s = _column(0.85 + 0.35 * f["size"])
    x = _column(32 + 32 * (f["x"] - 0.5))
    y = _column(29 + 16 * (f["y"] - 0.5))
    hair = HAIR[f["hair_colour"].astype(int)]
    shirt = NAMED[f["shirt"].astype(int)]
    skin = SKIN_LIGHT + f["skin"][:, None] * (SKIN_DARK - SKIN_LIGHT)
    style, wears, mouth = (f[name].astype(int) for name in ("hair", "wears", "mouth"))
    strands = np.abs((canvas.x - x + _column(f["strands"] * 16 / 3)) % (16 / 3) - 8 / 3) - 0.85

    def paint_hair(distance: Array, rows: Array) -> None:
        cover = canvas.cover(distance)
        canvas.paint(cover, hair[rows], rows)
        canvas.paint(cover * canvas.cover(strands[rows]) * 0.7, hair[rows] * 0.45 + 0.1, rows)

    long = np.flatnonzero(style == 1)
    if long.size:
        lx, ly, ls = x[long], y[long], s[long]
        curtain = np.maximum(
            np.abs(canvas.x - lx) - 13.5 * ls, np.abs(canvas.y - ly - 6 * ls) - 13 * ls
        )
        paint_hair(np.minimum(curtain, _ellipse(canvas, lx, ly - 4 * ls, 13.5 * ls, 14 * ls)), long)
    canvas.paint(canvas.cover(_box(canvas, x, y + 14 * s, 4 * s, 6 * s)), skin * 0.86)
    canvas.paint(canvas.cover(_ellipse(canvas, x, y + 35 * s, 22 * s, 17 * s)), shirt)
    canvas.paint(canvas.cover(_triangle(canvas, x, y + 15 * s, 0.1 + 3 * s, 9 * s)), shirt * 0.6)
    curly = np.flatnonzero(style == 2)
    if curly.size:
        cx, cy, cs = x[curly], y[curly], s[curly]
        balls = [
            _disc(canvas, cx + 11 * np.cos(a) * cs, cy - 3 * cs + 11.5 * np.sin(a) * cs, 5 * cs)
            for a in np.linspace(np.pi * 0.92, np.pi * 2.08, 7)
        ]
        paint_hair(np.minimum.reduce(balls), curly)
    canvas.paint(canvas.cover(_ellipse(canvas, x, y, 10.5 * s, 13 * s)), skin)
    crown = np.maximum(_ellipse(canvas, x, y - 2 * s, 11.8 * s, 13.2 * s), canvas.y - (y - 5.5 * s))
    short = np.flatnonzero(style != 2)
    if short.size:
        paint_hair(crown[short], short)
    gaze = _column(4.8 * (f["gaze"] - 0.5))
    for side in (-1, 1):
        ex, ey = x + side * 4.4 * s, y - 0.5 * s
        canvas.paint(canvas.cover(_ellipse(canvas, ex, ey, 2.7 * s, 2.1 * s)), np.ones(3))
        canvas.paint(canvas.cover(_disc(canvas, ex + gaze * s, ey, 1.4 * s)), DARK)
    glasses = np.flatnonzero(wears == 1)
    if glasses.size:
        gx, gy, gs = x[glasses], y[glasses] - 0.5 * s[glasses], s[glasses]
        frame = np.minimum.reduce(
            [np.abs(_disc(canvas, gx + side * 4.6 * gs, gy, 3.9 * gs)) - 0.8 for side in (-1, 1)]
        )
        canvas.paint(canvas.cover(frame), DARK, glasses)
    hat = np.flatnonzero(wears == 2)
    if hat.size:
        hx, hy, hs = x[hat], y[hat], s[hat]
        canvas.paint(
            canvas.cover(_box(canvas, hx, hy - 14 * hs, 9 * hs, 6 * hs)), shirt[hat] * 0.85, hat
        )
        canvas.paint(
            canvas.cover(_box(canvas, hx, hy - 8.5 * hs, 14 * hs, 1.8 * hs)), shirt[hat] * 0.5, hat
        )
    for kind in range(3):
        rows = np.flatnonzero(mouth == kind)
        if not rows.size:
            continue
        mx, my, ms = x[rows], y[rows], s[rows]
        if kind == 2:
            distance = _ellipse(canvas, mx, my + 7 * ms, 2.8 * ms, 2.8 * ms)
        else:
            turn = 1 if kind == 0 else -1
            centre = my + 6.5 * ms - turn * 3 * ms
            arc = np.abs(_disc(canvas, mx, centre, 4.6 * ms)) - 0.95 * ms
            distance = np.maximum(arc, turn * (my + (6.2 if kind == 0 else 6.8) * ms - canvas.y))
        canvas.paint(canvas.cover(distance), np.array([0.5, 0.1, 0.12]), rows)


def _draw_text(canvas: Canvas, f: dict[str, Array]) -> None:
    board = NAMED[f["board"].astype(int)]
    canvas.rgb_B3HW[:] = board[:, :, None, None]
    _pattern(canvas, f["pattern"].astype(int), f["pattern_phase"], board)
    cell = 16 / 6  # a letter and its gap are six cells
    left = _column(9.3 + 32 * (f["x"] - 0.5))
    top = _column(21 + 48 * (f["y"] - 0.5))
    v = (canvas.y - top) / cell + 0.5
    ink = NAMED[f["ink"].astype(int)]
    for position in range(3):
        u = (canvas.x - left) / cell - 6 * position + 0.5
        # At 32 pixels and more, cells whose glyph is 0 or almost 0 get no ink.
        rows = _span(((v > 0) & (v < 7.999)).any((0, 2))) if canvas.unit <= 2 else slice(0, None)
        columns = _span(((u > 0) & (u < 5.999)).any((0, 1))) if canvas.unit <= 2 else slice(0, None)
        glyphs = GLYPHS[f[f"letter_{position + 1}"].astype(int)]
        value = _bilinear(glyphs, u[:, :, columns], v[:, rows])
        # The glyph is sharpened to one pixel of transition whatever the cell.
        cover = np.clip((value - 0.28) * 1.6 * cell / canvas.unit + 0.5, 0, 1)
        canvas.paint(cover, ink, corner=(rows.start, columns.start))


def _bilinear(glyph_BVU: Array, u: Array, v: Array) -> Array:
    """Reads glyph cells at fractional positions; zero outside."""
    u, v = np.broadcast_arrays(np.clip(u, 0, 5.999), np.clip(v, 0, 7.999))
    u0, v0 = u.astype(int), v.astype(int)
    du, dv = u - u0, v - v0
    b = np.arange(len(glyph_BVU))[:, None, None]
    return (
        glyph_BVU[b, v0, u0] * (1 - du) * (1 - dv)
        + glyph_BVU[b, v0, u0 + 1] * du * (1 - dv)
        + glyph_BVU[b, v0 + 1, u0] * (1 - du) * dv
        + glyph_BVU[b, v0 + 1, u0 + 1] * du * dv
    )


def _restyle(canvas: Canvas, style: Array, phase: Array) -> None:
    rgb = canvas.rgb_B3HW
    for kind in range(1, 5):
        rows = np.flatnonzero(style == kind)
        if not rows.size:
            continue
        p = _column(phase[rows])
        if kind == 1:  # sepia, with a band of leaked light somewhere
            grey = rgb[rows].mean(1, keepdims=True)
            tone = np.array([1.0, 0.8, 0.55], np.float32)[None, :, None, None]
            band = np.exp(-(((canvas.x - 64 * p) / 8) ** 2))[:, None]
            rgb[rows] = np.clip((0.12 + 0.85 * grey) * tone + 0.3 * band, 0, 1)
        elif kind == 2:
            rgb[rows] = 1 - rgb[rows]
        elif kind == 3:
            lines = np.minimum(
                np.abs((canvas.x + 16 * p) % 16 - 8), np.abs((canvas.y + 16 * p) % 16 - 8)
            )
            canvas.paint(canvas.cover(lines - 1.1) * 0.85, np.full(3, 0.12), rows)
        else:
            lines = np.abs((canvas.x - canvas.y + 16 * p) % 16 - 8) * 0.7071 - 1.4
            canvas.paint(canvas.cover(lines) * 0.75, np.ones(3), rows)


_DRAWERS = {"landscape": _draw_landscape, "portrait": _draw_portrait, "text": _draw_text}


def draw_factors(category: str, factors: dict[str, Array], size: int = 64) -> Array:
    """Draws a batch given as one array of values per factor.

    Returns:
        Pictures `(B, 3, size, size)`, float32 in [0, 1].
    """
    factors = {name: np.asarray(values, np.float32) for name, values in factors.items()}
    canvas = Canvas(len(factors["tint"]), size)
    _DRAWERS[category](canvas, factors)
    warmth = (factors["tint"] - 0.5)[:, None] * np.array([0.22, 0.0, -0.22], np.float32)
    canvas.rgb_B3HW *= 1 + warmth[:, :, None, None]
    np.clip(canvas.rgb_B3HW, 0, 1, out=canvas.rgb_B3HW)
    _restyle(canvas, factors["style"].astype(int), factors["style_phase"])
    return canvas.rgb_B3HW


def draw(scenes: Sequence[Scene], size: int = 64) -> Array:
    """Draws scenes of any categories, in order; see `draw_factors`."""
    out = np.empty((len(scenes), 3, size, size), np.float32)
    for category in FACTORS:
        rows = [i for i, scene in enumerate(scenes) if scene.category == category]
        if rows:
            names = [factor.name for factor in FACTORS[category]]
            stacked = {n: np.array([scenes[i].factors[n] for i in rows]) for n in names}
            out[rows] = draw_factors(category, stacked, size)
    return out
