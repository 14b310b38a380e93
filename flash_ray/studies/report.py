"""A study's report: Markdown with figures beside it, and the same numbers as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from flash_ray.evaluation.benchmark import TASK_TITLES
from flash_ray.evaluation.statistics import RESAMPLES, Estimate
from flash_ray.recipe.schema import Task
from flash_ray.studies import figures
from flash_ray.studies.findings import AVERAGE, Cases, Findings
from flash_ray.studies.records import PICTURES

FOLDER = "figures"


def write_report(name: str, findings: Findings, cases: Cases, out: Path, to: Path) -> None:
    """Writes report.md, tables.csv, claims.csv and figures/.

    Args:
        name: of the study, as its commands take it.
        cases: that the trials were scored on, by task.
        out: the study's folder, with the trials' pictures.
        to: the report's folder.
    """
    (to / FOLDER).mkdir(parents=True, exist_ok=True)
    text = (
        _environment()
        .get_template("report.md.jinja")
        .render(
            name=name,
            study=findings.study,
            findings=findings,
            budget=_budget(findings),
            titles=TASK_TITLES,
            figures=_figures(findings, cases, out, to),
            resamples=f"{RESAMPLES:,}",
        )
    )
    (to / "report.md").write_text(text, encoding="utf-8")
    _write_csv(to / "tables.csv", _table_rows(findings))
    _write_csv(to / "claims.csv", _claim_rows(findings))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flash_ray.studies", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    environment.filters["cell"] = _cell
    environment.filters["signed"] = _signed
    environment.filters["number"] = _number
    return environment


def _cell(cell: tuple[Estimate, bool]) -> str:
    estimate, is_best = cell
    mean = f"**{estimate.mean:.2f}**" if is_best else f"{estimate.mean:.2f}"
    if math.isnan(estimate.low):
        return mean
    return f"{mean} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _signed(estimate: Estimate | None) -> str:
    if estimate is None:
        return "no data"
    if math.isnan(estimate.low):
        return f"{estimate.mean:+.3f}, no interval"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _budget(findings: Findings) -> str:
    ((name, value),) = [(n, v) for n, v in findings.study.budget if v is not None]
    return {"passes": f"{value:g} passes for each case"}.get(name, f"{value:,} {name}")


def _figures(
    findings: Findings, cases: Cases, out: Path, to: Path
) -> dict[tuple[str, Task], list[tuple[str, str]]]:
    """Draws the curves and grids; (file, description) of each by factor and task."""
    study = findings.study
    records = [record for record in findings.records.values() if record.seed in study.seeds]
    drawn: dict[tuple[str, Task], list[tuple[str, str]]] = {}
    for table in findings.tables:
        files = drawn[table.factor, table.task] = []
        arms = [row.arm for row in table.rows]
        if svg := figures.curves(arms, records, table.task):
            file = f"{FOLDER}/curves-{table.factor}-{table.task}.svg"
            (to / file).write_bytes(svg)
            files.append((file, f"{table.title}: {table.task} scores during training"))
        if strips := _strips(findings, arms, out):
            sheet = figures.grid(list(strips), strips, cases, [table.task])
            file = f"{FOLDER}/grid-{table.factor}-{table.task}.webp"
            sheet.save(to / file, "WEBP", quality=85, method=6)
            files.append((file, f"{table.title}: the same cases and noise, seed {study.seeds[0]}"))
    return drawn


def _strips(findings: Findings, arms: Sequence[str], out: Path) -> dict[str, Image.Image]:
    """The arms' pictures under the first seed, where there are any."""
    strips: dict[str, Image.Image] = {}
    for arm in arms:
        file = out / PICTURES / f"{findings.study.name}-{arm}-{findings.study.seeds[0]}.webp"
        if file.is_file():
            strips[arm] = Image.open(file).convert("RGB")
    return strips


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
