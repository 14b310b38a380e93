"""The picture of a comparison: rows of cases, inputs of edits first, then one column a model."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from flash_ray.evaluation.benchmark import first_of_each
from flash_ray.evaluation.compare import Comparison

SMALLEST, LARGEST = 128, 256  # pixels of a cell's sides, to which pictures are fitted
GAP = 6
LINE = 15  # pixels of one line of text


def row_images(comparison: Comparison, index: int) -> dict[str, Image.Image]:
    """The pictures of one case by column name; an edit's inputs come first."""
    references = comparison.cases[index].references
    images = {f"input {i + 1}" if i else "input": image for i, image in enumerate(references)}
    for name, answers in comparison.answers.items():
        images[name] = Image.fromarray(answers.images[index])
    return images


def save_grid(comparisons: Sequence[Comparison], file: Path, rows: int = 6) -> None:
    """Writes a PNG: for each comparison a block of up to `rows` cases under its column titles."""
    blocks = [_block(comparison, rows) for comparison in comparisons]
    width = sum(block.width for block in blocks) + 4 * GAP * (len(blocks) - 1)
    sheet = Image.new("RGB", (width + 2 * GAP, max(b.height for b in blocks) + 2 * GAP), "white")
    left = GAP
    for block in blocks:
        sheet.paste(block, (left, GAP))
        left += block.width + 4 * GAP
    sheet.save(file)


def _block(comparison: Comparison, rows: int) -> Image.Image:
    categories = len({case.category for case in comparison.cases})
    indices = first_of_each(comparison.cases, max(1, rows // categories))[:rows]
    images = [row_images(comparison, index) for index in indices]
    names = max((list(row) for row in images), key=len)
    longest = max(max(image.size) for row in images for image in row.values())
    side = min(max(SMALLEST, longest), LARGEST)
    font = ImageFont.load_default(12)
    row_height = side + 2 * LINE + GAP
    size = (len(names) * (side + GAP) - GAP, LINE + GAP + len(indices) * row_height)
    block = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(block)
    for column, name in enumerate(names):
        pen.text((column * (side + GAP), 0), name, "black", font)
    for row, index in enumerate(indices):
        top = LINE + GAP + row * row_height
        for name, image in images[row].items():
            block.paste(_fitted(image, side), (names.index(name) * (side + GAP), top))
        text = _wrapped(comparison.cases[index].prompt, size[0], font)
        pen.multiline_text((0, top + side + 1), text, "#444444", font, spacing=1)
    return block


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Fits the picture into a square of that side; its aspect ratio stays."""
    larger = max(image.size) > side
    method = Image.Resampling.LANCZOS if larger else Image.Resampling.NEAREST
    return ImageOps.contain(image, (side, side), method)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text in at most two lines of `width` pixels, cut off with dots if it is longer."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer + " …") <= width:
            lines[-1] = longer
        elif len(lines) == 2:
            lines[-1] += " …"
            break
        else:
            lines.append(word)
    return "\n".join(lines)
