"""Shows a comparison: one HTML page with its pictures inside, to be sent around, and a PNG grid."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from flash_ray import __version__
from flash_ray.evaluation.benchmark import TASK_TITLES, first_of_each
from flash_ray.evaluation.compare import Comparison
from flash_ray.evaluation.contact_sheet import GAP, LINE, SIDES, fitted, font_of, wrapped
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.words import failure_in_words, fault_lines
from flash_ray.recipe import Recipe, dump_yaml
from flash_ray.recipe.schema import Task
from flash_ray.storage.scores import digits_of
from flash_ray.trainer.metrics import UpdateMetrics

CHART_WIDTH, CHART_HEIGHT = 340, 150  # pixels
CHART_LEFT, CHART_TOP, CHART_BOTTOM = 46, 8, 18  # pixels of its margins
SHOWN = 4  # cases of each category with their pictures
SHOWN_SIDE = 512  # pixels of a shown picture's sides; larger ones are shrunk


def write_report(
    file: Path,
    recipe: Recipe,
    result: Mapping[str, Any],
    comparisons: Mapping[Task, Comparison],
    history: Sequence[UpdateMetrics],
) -> None:
    """Writes the page.

    Args:
        result: what result.json holds, as `workflows.demo` describes it.
        comparisons: by task, with the answers of teacher, untrained and student.
        history: every iteration of the run.
    """
    page = Environment(
        loader=PackageLoader("flash_ray.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    digits = digits_of(result["scale"])
    page.globals["score"] = page.filters["score"] = partial(_number, digits=digits)
    page.filters["signed"], page.filters["percent"] = partial(_signed, digits=digits), _percent
    models = list(next(iter(comparisons.values())).answers)
    text = page.get_template("report.html.jinja").render(
        version=__version__,
        recipe=recipe,
        recipe_yaml=dump_yaml(recipe),
        result=result,
        models=models,
        titles=TASK_TITLES,
        comparisons=comparisons,
        curves=history_curves(history),
        diversity={task: _diversity(comparison) for task, comparison in comparisons.items()},
        pictures={task: _pictures(comparison) for task, comparison in comparisons.items()},
    )
    file.write_text(text, encoding="utf-8")


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


def row_images(comparison: Comparison, index: int) -> dict[str, Image.Image]:
    """The pictures of one case by column name; an edit's inputs come first."""
    references = comparison.cases[index].references
    images = {f"input {i + 1}" if i else "input": image for i, image in enumerate(references)}
    for name, answers in comparison.answers.items():
        images[name] = Image.fromarray(answers.images[index])
    return images


def history_curves(history: Sequence[UpdateMetrics]) -> list[str]:
    """Draws a chart for each measure of a run that at least two iterations have."""
    points: dict[str, list[tuple[float, float]]] = {}
    for metrics in history:
        for title, value in _measures(metrics).items():
            points.setdefault(title, []).append((metrics.iteration, value))
    return [curve(title, line) for title, line in points.items() if len(line) > 1]


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """An SVG line chart of (x, y) points in order of x, the range of both written beside it."""
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    span_x, span_y = (xs[-1] - xs[0]) or 1, (high - low) or 1

    def point(x: float, y: float) -> str:
        across = CHART_LEFT + (x - xs[0]) / span_x * (CHART_WIDTH - CHART_LEFT - 4)
        down = CHART_TOP + (high - y) / span_y * (CHART_HEIGHT - CHART_BOTTOM - CHART_TOP)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(point(x, y) for x, y in points)
    floor = CHART_HEIGHT - CHART_BOTTOM
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<path class="axis" d="M{CHART_LEFT},{CHART_TOP}V{floor}H{CHART_WIDTH}"/>'
        f'<text x="{CHART_LEFT - 4}" y="{CHART_TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{CHART_LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{CHART_LEFT}" y="{CHART_HEIGHT - 4}">{xs[0]:g}</text>'
        f'<text x="{CHART_WIDTH}" y="{CHART_HEIGHT - 4}" text-anchor="end">{xs[-1]:g}</text>'
        f'<polyline points="{line}"/></svg></figure>'
    )


def _measures(metrics: UpdateMetrics) -> dict[str, float]:
    scores = metrics.scores or {}
    titles = {task: title for task, title in TASK_TITLES.items() if task in scores}
    return {
        **{name.replace("_", " "): value for name, value in metrics.diagnostics.items()},
        "loss of the fake score": metrics.fake_score_loss,
        "scale of the student's samples, relative to the base's": metrics.spread,
        **{f"score, {title}": scores[task] for task, title in titles.items()},
        "share of the time spent waiting for the teacher": metrics.teacher_wait_share,
        "images per second": metrics.images_per_second,
        "memory of a worker, MiB": metrics.memory_mib,
    }


def _pictures(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """The first cases of each category, with their answers."""
    categories: dict[str, list[dict[str, Any]]] = {}
    for index in first_of_each(comparison.cases, SHOWN):
        rows = categories.setdefault(comparison.cases[index].category, [])
        rows.append(_row(comparison, index))
    return categories


def _row(comparison: Comparison, index: int) -> dict[str, Any]:
    case = comparison.cases[index]
    cells = []
    for name, image in row_images(comparison, index).items():
        answers = comparison.answers.get(name)
        score = answers.result.cases[case.id] if answers else None
        cells.append(
            {
                "title": name,
                "png": _png(image),
                "is_small": max(image.size) <= 128,
                "score": score.score if score else None,
                "remarks": _remarks(score) if score else [],
            }
        )
    return {"id": case.id, "prompt": case.prompt, "cells": cells}


def _remarks(score: CaseScore) -> list[str]:
    """Sentences: why a score is missing or low, and what does not wholly hold."""
    failure, cap, reason = score.failure, score.details.get("cap"), score.details.get("reason")
    missing = f"No score: {failure_in_words(failure)}." if failure else None
    reasons = (missing, cap and f"Capped: {cap}.", reason)
    faults = fault_lines(score.details.get("attributes") or {})
    return [*(sentence for sentence in reasons if sentence), *faults]


def _diversity(comparison: Comparison) -> list[dict[str, Any]]:
    """One row for each factor of each category: the floor, then each model's distance.

    Only some judges measure it; a model whose pictures hardly show a factor has no distance of it.
    """
    rows = []
    results = [answers.result for answers in comparison.answers.values()]
    for category in results[0].categories:
        tables = [result.categories[category].details.get("diversity", {}) for result in results]
        floors: dict[str, float] = {}
        for table in tables:
            for factor, row in table.items():
                floors.setdefault(factor, row["floor"])
        rows += [
            {
                "category": category,
                "factor": factor,
                "floor": floor,
                "distances": [table.get(factor, {}).get("distance") for table in tables],
            }
            for factor, floor in floors.items()
        ]
    return rows


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{value:.0%}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _png(image: Image.Image) -> str:
    image = image.copy()
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _block(comparison: Comparison, rows: int) -> Image.Image:
    categories = len({case.category for case in comparison.cases})
    indices = first_of_each(comparison.cases, max(1, rows // categories))[:rows]
    images = [row_images(comparison, index) for index in indices]
    names = max((list(row) for row in images), key=len)
    longest = max(max(image.size) for row in images for image in row.values())
    side = min(max(SIDES[0], longest), SIDES[1])
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
            block.paste(fitted(image, side), (names.index(name) * (side + GAP), top))
        prompt = comparison.cases[index].prompt
        font = font_of(prompt)
        text = wrapped(prompt, size[0], font)
        pen.multiline_text((0, top + side + 1), text, "#444444", font, spacing=1)
    return block
