"""Pictures of a study's trials: a strip of each, and the strips of arms side by side."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flash_ray.evaluation.benchmark import Case, first_of_each
from flash_ray.recipe.schema import Task

LABEL, LINE = 170, 26  # pixels of a grid: width of the arms' names, height of the cases' names
SCORE = 12  # pixels below a picture, for what it scored
SHOWN = 2  # pictures of each category in a strip
LARGEST = 256  # pixels: larger pictures are shrunk
WIDEST = 16_383  # pixels of a WebP


def shown_cases(cases: Mapping[Task, Sequence[Case]]) -> list[Case]:
    """The cases whose answers a strip shows, in its order."""
    return [cases[task][index] for task in cases for index in first_of_each(cases[task], SHOWN)]


def strip(
    images: Mapping[Task, Sequence[np.ndarray]], cases: Mapping[Task, Sequence[Case]]
) -> bytes:
    """The first pictures of each category side by side on square tiles, as WebP.

    Args:
        images: uint8 (H, W, 3), by task, the answers to `cases` in order.
    """
    pictures = [
        Image.fromarray(images[task][index])
        for task in images
        for index in first_of_each(cases[task], SHOWN)
    ]
    largest = max(max(picture.size) for picture in pictures)
    side = min(LARGEST, largest, WIDEST // len(pictures))
    sheet = Image.new("RGB", (side * len(pictures), side), "white")
    for position, picture in enumerate(pictures):
        sheet.paste(_tile(picture, side), (position * side, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=92, method=6)
    return buffer.getvalue()


def grid(
    arms: Sequence[str],
    strips: Mapping[str, Image.Image],
    cases: Mapping[Task, Sequence[Case]],
    task: Task,
    scores: Mapping[str, Mapping[str, str]],
) -> Image.Image:
    """Draws a row for each arm over the same cases; for edits the first reference comes first.

    Args:
        strips: by arm, as `strip` made them of all `cases`.
        task: whose cases are drawn.
        scores: by arm and case id, what stands below a picture.
    """
    columns = [(n, case) for n, case in enumerate(shown_cases(cases)) if case.task == task]
    side = next(iter(strips.values())).height
    has_inputs = any(case.references for _, case in columns)
    top, height = LINE + has_inputs * side, side + SCORE
    size = (LABEL + len(columns) * side, top + len(arms) * height)
    sheet = Image.new("RGB", size, "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(9)
    for column, (position, case) in enumerate(columns):
        left = LABEL + column * side
        words = f"{case.category}\n{case.id.removeprefix(f'{case.category}-')}"
        pen.text((left + 2, 0), words, "black", small)
        if case.references:
            sheet.paste(_tile(case.references[0], side), (left, LINE))
        box = (position * side, 0, (position + 1) * side, side)
        for row, arm in enumerate(arms):
            sheet.paste(strips[arm].crop(box), (left, top + row * height))
            score = scores.get(arm, {}).get(case.id, "")
            pen.text((left + 2, top + row * height + side), score, "black", small)
    if has_inputs:
        pen.text((4, LINE + side // 2 - 7), "input", "black", font)
    for row, arm in enumerate(arms):
        pen.text((4, top + row * height + side // 2 - 7), arm, "black", font)
    return sheet


def _tile(picture: Image.Image, side: int) -> Image.Image:
    """A picture in the middle of a white square, smaller if it must be."""
    if max(picture.size) > side:
        picture = ImageOps.contain(picture, (side, side))
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile
