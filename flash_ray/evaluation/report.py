"""The report of a comparison: one HTML page with its pictures and curves inside, made to be sent around."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from flash_ray import __version__
from flash_ray.evaluation.compare import Comparison
from flash_ray.evaluation.figures import TITLES, row_images, spread
from flash_ray.miniature.judge import Verdict
from flash_ray.recipe import Recipe, dump_yaml

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 150, 46, 18, 8


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """An SVG line chart of (x, y) points in order of x, the range of both written beside it."""
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    span_x, span_y = (xs[-1] - xs[0]) or 1, (high - low) or 1

    def place(x: float, y: float) -> str:
        across = LEFT + (x - xs[0]) / span_x * (WIDTH - LEFT - 4)
        down = TOP + (high - y) / span_y * (HEIGHT - BOTTOM - TOP)
        return f"{across:.1f},{down:.1f}"

    line = " ".join(place(x, y) for x, y in points)
    floor = HEIGHT - BOTTOM
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<path class="axis" d="M{LEFT},{TOP}V{floor}H{WIDTH}"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}">{xs[0]:g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{xs[-1]:g}</text>'
        f'<polyline points="{line}"/></svg></figure>'
    )


def log_curves(history: Sequence[Mapping[str, float]], titles: Mapping[str, str]) -> list[str]:
    """One chart for each measure of `titles` (name: title) that at least two log rows have.

    Args:
        history: rows of a run's log, each with its `update`.
    """
    charts = []
    for name, title in titles.items():
        points = [(row["update"], row[name]) for row in history if row.get(name) is not None]
        if len(points) > 1:
            charts.append(curve(title, points))
    return charts


BENCHES = {"t2i": "Text to image", "edit": "Editing"}
SHOWN = 4  # cases of each category with their pictures
CURVES = {
    "dmd_gradient": "DMD gradient, RMS",
    "fake_loss": "fake score's loss",
    "spread": "scale of the student's samples, relative to the base's",
    "t2i": "small bench, text to image",
    "edit": "small bench, editing",
    "teacher_wait_share": "share of the time spent waiting for the teacher",
    "images_per_second": "images per second",
    "memory_mib": "memory of a worker, MiB",
}


def write_report(
    file: Path,
    recipe: Recipe,
    result: Mapping[str, Any],
    comparisons: Mapping[str, Comparison],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the page.

    Args:
        result: what result.json holds.
        comparisons: by bench, with the answers of all models in `result`.
        history: the run's lines: {"update", "measures", and where it was scored "bench"}.
    """
    page = Environment(
        loader=PackageLoader("flash_ray.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page.globals["score"] = page.filters["score"] = "{:.2f}".format
    page.filters["signed"] = "{:+.2f}".format
    models = list(next(iter(comparisons.values())).answers)
    text = page.get_template("report.html.jinja").render(
        version=__version__,
        recipe=recipe,
        recipe_yaml=dump_yaml(recipe),
        result=result,
        models=models,
        titles=TITLES,
        benches=BENCHES,
        comparisons=comparisons,
        curves=log_curves(_log(history), CURVES),
        diversity={bench: _diversity(result, bench, models) for bench in comparisons},
        pictures={bench: _rows(comparison) for bench, comparison in comparisons.items()},
    )
    file.write_text(text, encoding="utf-8")


def _log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [
        {"update": line["update"], **line["measures"], **line.get("bench", {})} for line in history
    ]


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    return [_row(comparison, index) for index in spread(comparison, SHOWN)]


def _row(comparison: Comparison, index: int) -> dict[str, Any]:
    case = comparison.cases[index]
    cells = []
    for name, image in row_images(comparison, index).items():
        answers = comparison.answers.get(name)
        verdict = answers.score.verdicts[case.id] if answers else None
        cells.append(
            {
                "title": TITLES.get(name, name),
                "png": _png(image),
                "score": verdict.score if verdict else None,
                "wrong": _wrong(verdict) if verdict else [],
            }
        )
    return {"id": case.id, "prompt": case.prompt, "cells": cells}


def _wrong(verdict: Verdict) -> list[str]:
    """Attributes that do not wholly hold, and why the score was capped."""
    missed = [name for name, credit in verdict.attributes.items() if credit < 1]
    return [*missed, *([verdict.cap] if verdict.cap else [])]


def _diversity(result: Mapping[str, Any], bench: str, models: list[str]) -> list[dict[str, Any]]:
    """One row for each factor of each category: the floor, then each model's distance.

    A model whose pictures hardly show a factor has no distance of it.
    """
    rows = []
    for category in result[models[0]]["categories"][bench]:
        tables = [result[name]["categories"][bench][category]["diversity"] for name in models]
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


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
