"""A contact sheet: one model's pictures in a grid, prompts under them, edits after their inputs."""

import io
import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flash_ray.evaluation.benchmark import Case, first_of_each

SIDES = (128, 256)  # pixels, smallest and largest, of the squares that pictures are fitted into
COLUMNS = 8  # squares in a row
GAP, LINE = 6, 15  # pixels between cells of a table, and of one line of text
APART, CLOSE = 16, 2  # pixels between cases, and between the pictures of one
LINES = 3  # of a prompt
EAST_ASIAN = r"\u2e80-\uffef"
WORDS = re.compile(rf"[{EAST_ASIAN}]\s*|[^\s{EAST_ASIAN}]+\s*")  # Chinese breaks anywhere
# PIL's own font has none of these letters; of these fonts the first that is installed is taken.
FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallback.ttf")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(cases: Sequence[Case], images: Sequence[np.ndarray]) -> Image.Image:
    """The answers to cases in order, with their prompts under them.

    Args:
        cases: at least one.
        images: uint8 (H, W, 3), one for each case; of any sizes.
    """
    pictures = [
        [*case.references, Image.fromarray(image)]
        for case, image in zip(cases, images, strict=True)
    ]
    largest = max(max(picture.size) for of_case in pictures for picture in of_case)
    side = min(max(SIDES[0], largest), SIDES[1])
    cells = [
        _cell(case.prompt, of_case, side) for case, of_case in zip(cases, pictures, strict=True)
    ]
    widest = max(COLUMNS * (side + APART), max(cell.width for cell in cells) + APART)
    places, left, top, height = list[tuple[int, int]](), 0, 0, cells[0].height
    for cell in cells:
        if left + cell.width + APART > widest:
            left, top = 0, top + height
        places.append((left, top))
        left += cell.width + APART
    width = max(x + cell.width for (x, _), cell in zip(places, cells, strict=True))
    sheet = Image.new("RGB", (width + 2 * GAP, top + height + 2 * GAP), "white")
    for cell, (x, y) in zip(cells, places, strict=True):
        sheet.paste(cell, (GAP + x, GAP + y))
    return sheet


def first_answers(answered: Iterable[tuple[Sequence[Case], Sequence[np.ndarray]]]) -> bytes:
    """The contact sheet, a PNG, of the answers to the first case of each category.

    Args:
        answered: the cases of each task, and the answers to them.
    """
    cases: list[Case] = []
    images: list[np.ndarray] = []
    for of_task, drawn in answered:
        for index in first_of_each(of_task, 1):
            cases.append(of_task[index])
            images.append(drawn[index])
    buffer = io.BytesIO()
    contact_sheet(cases, images).save(buffer, "PNG")
    return buffer.getvalue()


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Fits the picture into a square of that side; its aspect ratio stays."""
    larger = max(image.size) > side
    method = Image.Resampling.LANCZOS if larger else Image.Resampling.NEAREST
    return ImageOps.contain(image, (side, side), method)


def wrapped(text: str, width: int, font: Font, lines: int = 2) -> str:
    """The text in lines of `width` pixels, cut off with dots if it needs more of them."""
    done = [""]
    for word in WORDS.findall(text):
        longer = done[-1] + word
        if not done[-1] or font.getlength(longer.rstrip() + " …") <= width:
            done[-1] = longer
        elif len(done) == lines:
            done[-1] += "…"
            break
        else:
            done.append(word)
    return "\n".join(line.rstrip() for line in done)


def font_of(text: str) -> Font:
    """A font of 12 pixels that has the text's letters, where one is installed."""
    wide = re.search(f"[{EAST_ASIAN}]", text) and _east_asian_font()
    return wide or ImageFont.load_default(12)


@cache
def _east_asian_font() -> Font | None:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, 12)
        except OSError:  # not installed
            continue
    return None


def _cell(prompt: str, pictures: Sequence[Image.Image], side: int) -> Image.Image:
    width = len(pictures) * (side + CLOSE) - CLOSE
    cell = Image.new("RGB", (width, side + LINES * LINE + GAP), "white")
    for position, picture in enumerate(pictures):
        cell.paste(fitted(picture, side), (position * (side + CLOSE), 0))
    font = font_of(prompt)
    text = wrapped(prompt, width, font, LINES)
    ImageDraw.Draw(cell).multiline_text((0, side + 1), text, "#444444", font, spacing=1)
    return cell
