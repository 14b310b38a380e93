"""The report of a contest: one HTML page with its pictures inside, made to be sent around."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from flash_ray import __version__
from flash_ray.evaluation.contest import Contest
from flash_ray.evaluation.curves import log_curves
from flash_ray.evaluation.grid import TITLES, row_images, spread
from flash_ray.miniature.judge import Verdict
from flash_ray.recipe import Recipe, dump_yaml

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
    contests: Mapping[str, Contest],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the page.

    Args:
        result: what result.json holds.
        contests: by bench, with the answers of all models in `result`.
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
    models = list(next(iter(contests.values())).answers)
    text = page.get_template("report.html.jinja").render(
        version=__version__,
        recipe=recipe,
        recipe_yaml=dump_yaml(recipe),
        result=result,
        models=models,
        titles=TITLES,
        benches=BENCHES,
        contests=contests,
        curves=log_curves(_log(history), CURVES),
        diversity={bench: _diversity(result, bench, models) for bench in contests},
        pictures={bench: _rows(contest) for bench, contest in contests.items()},
    )
    file.write_text(text, encoding="utf-8")


def _log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [
        {"update": line["update"], **line["measures"], **line.get("bench", {})} for line in history
    ]


def _rows(contest: Contest) -> list[dict[str, Any]]:
    return [_row(contest, index) for index in spread(contest, SHOWN)]


def _row(contest: Contest, index: int) -> dict[str, Any]:
    case = contest.cases[index]
    cells = []
    for name, image in row_images(contest, index).items():
        answers = contest.answers.get(name)
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
