"""A study's report: Markdown with figures, and CSV tables."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flash_ray.evaluation.benchmark import TASK_TITLES, Case, first_of_each
from flash_ray.evaluation.statistics import RESAMPLES, Estimate
from flash_ray.recipe.schema import Task
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.scores import digits_of
from flash_ray.studies.findings import AVERAGE, Cases, Findings
from flash_ray.studies.records import PICTURES, Record

matplotlib.rcParams["svg.hashsalt"] = "flash_ray"  # the same figure is the same file
REPORT, TABLES, CLAIMS, FIGURES = "report.md", "tables.csv", "claims.csv", "figures"
LABEL, LINE = 170, 26  # pixels of a grid: width of the arms' names, height of the cases' names
SHOWN = 2  # pictures of each category in a strip
LARGEST = 256  # pixels: larger pictures are shrunk
WIDEST = 16_383  # pixels of a WebP


def write_report(
    name: str, findings: Findings, cases: Cases, out: Path, to: Path
) -> list[CorruptRecord]:
    """Writes report.md, tables.csv, claims.csv and figures/; returns what is wrong with pictures
    that are left out.

    Args:
        name: of the study, as its commands take it.
        cases: that the trials were scored on, by task.
        out: the study's folder, with the trials' pictures.
        to: the report's folder.
    """
    (to / FIGURES).mkdir(parents=True, exist_ok=True)
    strips, faults = _strips(findings, out)
    text = (
        _environment(digits_of(findings.scale))
        .get_template("report.md.jinja")
        .render(
            name=name,
            study=findings.study,
            findings=findings,
            budget=_budget(findings),
            titles=TASK_TITLES,
            figures=_figures(findings, cases, strips, to),
            resamples=f"{RESAMPLES:,}",
        )
    )
    (to / REPORT).write_text(text, encoding="utf-8")
    _write_csv(to / TABLES, _table_rows(findings))
    _write_csv(to / CLAIMS, _claim_rows(findings))
    return faults


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


def _figures(
    findings: Findings, cases: Cases, strips: Mapping[str, Image.Image], to: Path
) -> dict[tuple[str, Task], list[tuple[str, str]]]:
    """Draws the curves and grids; (file, description) of each by factor and task."""
    study = findings.study
    records = [record for record in findings.records.values() if record.seed in study.seeds]
    drawn: dict[tuple[str, Task], list[tuple[str, str]]] = {}
    for table in findings.tables:
        files = drawn[table.factor, table.task] = []
        arms = [row.arm for row in table.rows]
        if svg := curves(arms, records, table.task):
            file = f"{FIGURES}/curves-{table.factor}-{table.task}.svg"
            (to / file).write_bytes(svg)
            files.append((file, f"{table.title}: {table.task} scores during training"))
        if shown := [arm for arm in arms if arm in strips]:
            sheet = grid(shown, strips, cases, [table.task])
            file = f"{FIGURES}/grid-{table.factor}-{table.task}.webp"
            sheet.save(to / file, "WEBP", quality=85, method=6)
            files.append((file, f"{table.title}: the same cases and noise, seed {study.seeds[0]}"))
    return drawn


def _strips(findings: Findings, out: Path) -> tuple[dict[str, Image.Image], list[CorruptRecord]]:
    """The arms' pictures under the first seed, where there are any, and those that are corrupt."""
    strips: dict[str, Image.Image] = {}
    faults: list[CorruptRecord] = []
    for arm in findings.study.arms:
        file = out / PICTURES / f"{findings.study.name}-{arm}-{findings.study.seeds[0]}.webp"
        if not file.is_file():
            continue
        try:
            strips[arm] = Image.open(file, formats=("WEBP",)).convert("RGB")
        except Exception as error:  # of many kinds: Pillow knows many ways to be broken
            faults.append(CorruptRecord(str(file), str(error), "it is left out; remove it"))
    return strips, faults


def _table_rows(findings: Findings) -> list[Mapping[str, Any]]:
    return [
        {
            "factor": table.factor,
            "task": table.task,
            "arm": row.arm,
            "column": column,
            "mean": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "best_or_tie": is_best,
            "rank": row.rank if column == AVERAGE else "",
            "ties": " ".join(map(str, row.ties)) if column == AVERAGE else "",
            "diversity_gap": row.diversity.get(column),
            "seeds": row.seeds,
        }
        for table in findings.tables
        for row in table.rows
        for column, (estimate, is_best) in row.cells.items()
    ]


def _claim_rows(findings: Findings) -> list[Mapping[str, Any]]:
    return [
        {
            "claim": v.claim.text,
            "source": v.claim.source,
            "left": " ".join(v.claim.left),
            "right": " ".join(v.claim.right),
            "measure": v.claim.measure,
            "expect": v.claim.expect,
            "difference": v.difference.mean if v.difference else "",
            "low": v.difference.low if v.difference else "",
            "high": v.difference.high if v.difference else "",
            "verdict": v.verdict,
        }
        for v in findings.verdicts
    ]


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    file.write_text(buffer.getvalue(), encoding="utf-8")


def _environment(digits: int) -> Environment:
    """Templates that show scores with so many decimals."""
    environment = Environment(
        loader=PackageLoader("flash_ray.studies", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = partial(_cell, digits=digits)
    environment.filters["signed"] = _signed
    environment.filters["percent"] = _percent
    environment.filters["number"] = partial(_number, digits=digits)
    return environment


def _cell(cell: tuple[Estimate, bool], digits: int) -> str:
    estimate, is_best = cell
    mean, low, high = (
        f"{value:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high)
    )
    mean = f"**{mean}**" if is_best else mean
    return mean if math.isnan(estimate.low) else f"{mean} [{low}, {high}]"


def _signed(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no data"
    if math.isnan(estimate.low):
        return f"{estimate.mean:+.3f}, no interval"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no gap"
    return f"{estimate.mean:.0%} [{estimate.low:.0%}, {estimate.high:.0%}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _budget(findings: Findings) -> str:
    ((name, value),) = [(n, v) for n, v in findings.study.budget if v is not None]
    return {"passes": f"{value:g} passes for each case"}.get(name, f"{value:,} {name}")


def _tile(picture: Image.Image, side: int) -> Image.Image:
    """A picture in the middle of a white square, smaller if it must be."""
    if max(picture.size) > side:
        picture = ImageOps.contain(picture, (side, side))
    tile = Image.new("RGB", (side, side), "white")
    tile.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return tile
