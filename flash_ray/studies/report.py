"""A study's report: Markdown with figures, and CSV tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from flash_ray.evaluation.benchmark import TASK_TITLES, Case
from flash_ray.recipe.schema import Task
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.scores import digits_of
from flash_ray.studies import words
from flash_ray.studies.figures import curves, forest, sides_of
from flash_ray.studies.findings import Findings
from flash_ray.studies.inference import Effect
from flash_ray.studies.outcomes import Cases, Measured
from flash_ray.studies.pictures import grid, shown_cases
from flash_ray.studies.records import PICTURES
from flash_ray.studies.tables import AVERAGE, Row, Table
from flash_ray.studies.verdicts import ClaimVerdict

REPORT, TABLES, CLAIMS, FIGURES = "report.md", "tables.csv", "claims.csv", "figures"


@dataclass(frozen=True)
class Part:
    """A factor on a task, in the report.

    Args:
        table: the score at the end.
        beside: the other outcomes, and the score at the early horizon.
        figures: (file, description).
        prompts: of the pictures.
    """

    table: Table
    beside: tuple[Table, ...]
    figures: Sequence[tuple[str, str]]
    prompts: Sequence[Case]


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
    if svg := forest(findings.verdicts):
        (to / FIGURES / "claims.svg").write_bytes(svg)
    text = (
        _environment(digits_of(findings.scale))
        .get_template("report.md.jinja")
        .render(
            name=name,
            study=findings.study,
            findings=findings,
            budget=_budget(findings),
            titles=TASK_TITLES,
            parts=_parts(findings, cases, strips, to),
            families=_families(findings),
            forest=f"{FIGURES}/claims.svg" if svg else None,
            average=AVERAGE,
        )
    )
    (to / REPORT).write_text(text, encoding="utf-8")
    _write_csv(to / TABLES, _table_rows(findings))
    _write_csv(to / CLAIMS, _claim_rows(findings))
    return faults


def _families(findings: Findings) -> dict[str, list[tuple[int, ClaimVerdict]]]:
    """Claims with their numbers, by the title of their factor, in the factors' order."""
    tables = findings.study.tables
    titles = {name: factor.title for name, factor in tables.items()}
    found: dict[str, list[tuple[int, ClaimVerdict]]] = {title: [] for title in titles.values()}
    for number, v in enumerate(findings.verdicts, 1):
        found.setdefault(titles.get(v.factor, v.factor), []).append((number, v))
    return {title: of for title, of in found.items() if of}


def _parts(
    findings: Findings, cases: Cases, strips: Mapping[str, Image.Image], to: Path
) -> list[Part]:
    """The tables by factor and task, with curves and grids that are drawn here."""
    parts = []
    for table in findings.tables:
        if table.measured != Measured(table.task):
            continue
        place = (table.factor, table.task)
        beside = [t for t in findings.tables if (t.factor, t.task) == place and t is not table]
        figures, arms = [], [row.arm for row in table.rows]
        if svg := curves(arms, list(findings.records.values()), table.task):
            file = f"{FIGURES}/curves-{table.factor}-{table.task}.svg"
            (to / file).write_bytes(svg)
            figures.append((file, f"{table.title}: {table.task} scores during training"))
        prompts = []
        if shown := [arm for arm in arms if arm in strips]:
            seed = findings.study.seeds[0]
            sheet = grid(shown, strips, cases, table.task, _scores(findings, table.task))
            file = f"{FIGURES}/grid-{table.factor}-{table.task}.webp"
            sheet.save(to / file, "WEBP", quality=85, method=6)
            figures.append((file, f"{table.title}: the same cases and noise, seed {seed}"))
            prompts = [case for case in shown_cases(cases) if case.task == table.task]
        parts.append(Part(table, tuple(beside), figures, prompts))
    return parts


def _scores(findings: Findings, task: Task) -> dict[str, dict[str, str]]:
    """What the arms' pictures scored under the first seed, by arm and case."""
    digits = digits_of(findings.scale)
    return {
        record.arm: {
            case: f"{of.score:.{digits}f}"
            for case, of in record.scores.get(task, {}).items()
            if of.score is not None
        }
        for record in findings.records.values()
        if record.seed == findings.study.seeds[0]
    }


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
    rows = []
    for table in findings.tables:
        for arm in table.rows:
            for column, effect in arm.cells.items():
                rows.append(_table_row(table, arm.arm, column, effect, _of_arm(arm, column)))
        for base in table.base:
            for column, effect in base.cells.items():
                rows.append(_table_row(table, base.name, column, effect, {}))
    return rows


def _table_row(
    table: Table, name: str, column: str, effect: Effect, of_arm: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {
        "factor": table.factor,
        "task": table.task,
        "horizon": table.measured.horizon,
        "outcome": table.measured.outcome,
        "arm": name,
        "column": column,
        "mean": effect.mean,
        "low": effect.low,
        "high": effect.high,
        "se": effect.se,
        **of_arm,
    }


def _of_arm(row: Row, column: str) -> Mapping[str, Any]:
    is_average = column == AVERAGE
    closed = row.closed if is_average else None
    return {
        "best": column in row.best,
        "rank": row.rank if is_average else "",
        "ties": " ".join(map(str, row.ties)) if is_average else "",
        "gap_closed": closed.mean if closed else "",
        "gap_closed_low": closed.low if closed else "",
        "gap_closed_high": closed.high if closed else "",
        "seeds": row.seeds,
        "zero_shot": not row.is_trained,
    }


def _claim_rows(findings: Findings) -> list[Mapping[str, Any]]:
    return [
        {
            "claim": v.claim.text,
            "source": v.claim.source,
            "factor": v.factor,
            "left": " ".join(v.claim.left),
            "right": " ".join(v.claim.right),
            "measure": v.claim.measure,
            "outcome": v.claim.outcome,
            "horizon": v.claim.horizon,
            "expect": v.claim.expect,
            "difference": v.effect.mean if v.effect else "",
            "low": v.effect.low if v.effect else "",
            "high": v.effect.high if v.effect else "",
            "low_90": v.effect.interval(0.9)[0] if v.effect else "",
            "high_90": v.effect.interval(0.9)[1] if v.effect else "",
            "se": v.effect.se if v.effect else "",
            "df": v.effect.df if v.effect else "",
            "p_holm": "" if v.p is None else v.p,
            "margin": v.margin,
            "verdict": words.verdict_in_words(v),
            "source_effect": "" if v.claim.effect is None else v.claim.effect,
            "source_is": v.source or "",
            "probability_best": "" if v.best is None else v.best,
            "seeds_needed": (v.needs and v.needs.seeds) or "",
            "cases_needed": (v.needs and v.needs.cases) or "",
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
    environment.filters["precise"] = partial(_cell, digits=3)
    environment.filters["one_line"] = lambda text: " ".join(text.replace("`", "'").split())
    environment.filters["signed"] = words.signed
    environment.filters["percent"] = _percent
    environment.filters["number"] = partial(_number, digits=digits)
    environment.filters["p_value"] = words.p_value
    environment.filters["answer"] = words.answer
    environment.filters["verdict"] = words.verdict_in_words
    environment.filters["summary"] = words.summary_of
    environment.filters["leader"] = words.leader
    environment.filters["sides"] = sides_of
    return environment


def _cell(effect: Effect, is_best: bool, digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in (effect.mean, effect.low, effect.high))
    mean = f"**{mean}**" if is_best else mean
    return mean if np.isnan(effect.se) else f"{mean} [{low}, {high}]"


def _percent(effect: Effect | None) -> str:
    if effect is None:
        return "no gap"
    if np.isnan(effect.se):
        return f"{effect.mean:.0%}"
    return f"{effect.mean:.0%} [{effect.low:.0%}, {effect.high:.0%}]"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _budget(findings: Findings) -> str:
    ((name, value),) = [(n, v) for n, v in findings.study.budget if v is not None]
    return {"passes": f"{value:g} passes for each case"}.get(name, f"{value:,} {name}")
