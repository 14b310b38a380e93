"""The report's pictures: curves of the small bench, and the same cases drawn by every arm."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from flash_ray.miniature.benchmark import Case, cases, source_image
from flash_ray.studies.records import Record, shown

matplotlib.rcParams["svg.hashsalt"] = "flash_ray"  # the same figure is the same file
LABEL, LINE = 170, 26  # pixels: width of the arms' names, height of the cases' names


def curves(arms: Sequence[str], records: Sequence[Record], bench: str) -> bytes | None:
    """Small bench score against updates: mean over seeds, and their range. None without data."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for arm in arms:
        runs = [dict(r.curve) for r in records if r.arm == arm and r.curve]
        if not runs:
            continue
        updates = sorted(set.intersection(*(set(run) for run in runs)))
        values_RU = np.array([[run[update][bench] for update in updates] for run in runs])
        (line,) = axes.plot(updates, values_RU.mean(0), label=arm, linewidth=1.4)
        low, high = values_RU.min(0), values_RU.max(0)
        axes.fill_between(updates, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    if not axes.lines:
        return None
    axes.set_xlabel("updates")
    axes.set_ylabel(f"small bench, {bench}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def grid(
    arms: Sequence[str],
    strips: Mapping[str, Image.Image],
    per_category: Mapping[str, int],
    benches: Sequence[str],
) -> Image.Image:
    """A row for each arm over the same cases; for edits the inputs come first.

    Args:
        strips: by arm, as `records.strip` made them, of all benches in `per_category`.
    """
    kept: list[tuple[Case, int]] = []  # with the picture's position in a strip
    for bench, count in per_category.items():
        asked = cases(bench, count)
        for index in shown(asked):
            kept.append((asked[index], len(kept)))
    columns = [(case, place) for case, place in kept if case.bench in benches]
    side = next(iter(strips.values())).height
    inputs = any(case.bench == "edit" for case, _ in columns)
    rows = [*(["input"] if inputs else []), *arms]
    sheet = Image.new("RGB", (LABEL + len(columns) * side, LINE + len(rows) * side), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, name in enumerate(rows):
        top = LINE + row * side
        pen.text((4, top + side // 2 - 7), name, "black", font)
        for column, (case, place) in enumerate(columns):
            left = LABEL + column * side
            if row == 0:
                category, _, number = case.id.rpartition("-")
                words = f"{category}\n{number}"
                pen.text((left + 2, 0), words, "black", ImageFont.load_default(9))
            if name == "input":
                if case.bench == "edit":
                    sheet.paste(source_image(case), (left, top))
            else:
                box = (place * side, 0, (place + 1) * side, side)
                sheet.paste(strips[name].crop(box), (left, top))
    return sheet
