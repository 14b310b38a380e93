"""Pictures of trials and reports: strips of answers, grids of the arms' strips, and curves."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flash_ray.evaluation.benchmark import Case, first_of_each
from flash_ray.recipe.schema import Task
from flash_ray.studies.records import Record

matplotlib.rcParams["svg.hashsalt"] = "flash_ray"  # the same figure is the same file
LABEL, LINE = 170, 26  # pixels: width of the arms' names, height of the cases' names
SHOWN = 2  # pictures of each category in a strip
LARGEST = 256  # pixels: larger pictures are shrunk
WIDEST = 16_383  # pixels of a WebP


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
    tasks: Sequence[Task],
) -> Image.Image:
    """Draws a row for each arm over the same cases; for edits the first reference comes first.

    Args:
        strips: by arm, as `strip` made them of all `cases`.
        tasks: those whose cases are drawn.
    """
    shown = [cases[task][index] for task in cases for index in first_of_each(cases[task], SHOWN)]
    columns = [(position, case) for position, case in enumerate(shown) if case.task in tasks]
    side = next(iter(strips.values())).height
    has_inputs = any(case.references for _, case in columns)
    top = LINE + has_inputs * side
    size = (LABEL + len(columns) * side, top + len(arms) * side)
    sheet = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, (position, case) in enumerate(columns):
        left = LABEL + column * side
        words = f"{case.category}\n{case.id.removeprefix(f'{case.category}-')}"
        pen.text((left + 2, 0), words, "black", ImageFont.load_default(9))
        if case.references:
            sheet.paste(_tile(case.references[0], side), (left, LINE))
        box = (position * side, 0, (position + 1) * side, side)
        for row, arm in enumerate(arms):
            sheet.paste(strips[arm].crop(box), (left, top + row * side))
    names = [*(["input"] if has_inputs else []), *arms]
    for row, name in enumerate(names):
        pen.text((4, LINE + row * side + side // 2 - 7), name, "black", font)
    return sheet


def _tile(picture: Image.Image, side: int) -> Image.Image:
    """A picture in the middle of a white square, smaller if it must be."""
    if max(picture.size) > side:
        picture = ImageOps.contain(picture, (side, side))
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile


def curves(arms: Sequence[str], records: Sequence[Record], task: Task) -> bytes | None:
    """Plots scores during training: mean over seeds, and their range. None without data."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for arm in arms:
        runs = [
            {iteration: scores[task] for iteration, scores in record.curve if task in scores}
            for record in records
            if record.arm == arm
        ]
        runs = [run for run in runs if run]
        if not runs:
            continue
        iterations = sorted(set.intersection(*(set(run) for run in runs)))
        values_RU = np.array([[run[iteration] for iteration in iterations] for run in runs])
        (line,) = axes.plot(iterations, values_RU.mean(0), label=arm, linewidth=1.4)
        low, high = values_RU.min(0), values_RU.max(0)
        axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    if not axes.lines:
        return None
    axes.set_xlabel("iterations")
    axes.set_ylabel(f"score during training, {task}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
