"""The picture of a comparison: rows of cases, for edits the input first, one column a model."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from flash_ray.evaluation.compare import Comparison
from flash_ray.miniature.benchmark import source_image

ZOOM = 2
GAP = 6
LINE = 15  # pixels of one line of text
TITLES = {
    "input": "input",
    "teacher": "teacher",
    "teacher_at_4": "teacher at 4",
    "student": "student",
}


def spread(comparison: Comparison, per_category: int) -> list[int]:
    """Indices of the first `per_category` cases of each category: nobody picks the pictures."""
    return [i for i, case in enumerate(comparison.cases) if case.index < per_category]


def row_images(comparison: Comparison, index: int) -> dict[str, Image.Image]:
    """The pictures of one case by column name; an edit's input comes first."""
    case = comparison.cases[index]
    images = {"input": source_image(case)} if case.bench == "edit" else {}
    for name, answers in comparison.answers.items():
        images[name] = Image.fromarray(answers.pictures_BHW3[index])
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
    indices = spread(comparison, max(1, rows // categories))[:rows]
    pictures = [row_images(comparison, index) for index in indices]
    names = list(pictures[0])
    side = ZOOM * next(iter(pictures[0].values())).width
    font = ImageFont.load_default(12)
    row_height = side + 2 * LINE + GAP
    size = (len(names) * (side + GAP) - GAP, LINE + GAP + len(indices) * row_height)
    block = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(block)
    for column, name in enumerate(names):
        pen.text((column * (side + GAP), 0), TITLES.get(name, name), "black", font)
    for row, index in enumerate(indices):
        top = LINE + GAP + row * row_height
        for column, image in enumerate(pictures[row].values()):
            zoomed = image.resize((side, side), Image.Resampling.NEAREST)
            block.paste(zoomed, (column * (side + GAP), top))
        text = _wrapped(comparison.cases[index].prompt, size[0], font)
        pen.multiline_text((0, top + side + 1), text, "#444444", font, spacing=1)
    return block


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
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
