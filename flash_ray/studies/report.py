"""A study's report: Markdown, one HTML page with its pictures inside, CSV tables."""

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from PIL import Image

from flash_ray.evaluation.statistics import RESAMPLES, Estimate
from flash_ray.studies import figures
from flash_ray.studies.findings import AVERAGE, Findings
from flash_ray.studies.records import PICTURES

BENCHES = {"t2i": "text to image", "edit": "editing"}
FOLDER = "figures"
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto;
         padding: 0 1rem; }}
  table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; display: block;
          overflow-x: auto; }}
  th, td {{ padding: .25rem .7rem; border-bottom: 1px solid #8884; text-align: left; }}
  img {{ max-width: 100%; background: white; }}
</style>
{body}
</html>
"""


def write_report(name: str, found: Findings, out: Path, to: Path) -> None:
    """Writes report.md, report.html, tables.csv, claims.csv and figures/.

    Args:
        name: of the study, as its commands take it.
        out: the study's folder, with the trials' pictures.
        to: the report's folder.
    """
    to.mkdir(parents=True, exist_ok=True)
    drawn = _figures(found, out, to)
    text = (
        _environment()
        .get_template("report.md.jinja")
        .render(
            name=name,
            study=found.study,
            found=found,
            budget=_budget(found),
            benches=BENCHES,
            figures=drawn,
            teachers=_teachers(found),
            resamples=f"{RESAMPLES:,}",
        )
    )
    (to / "report.md").write_text(text, encoding="utf-8")
    page = PAGE.format(title=f"Study {found.study.name}", body=_html(text, to))
    (to / "report.html").write_text(page, encoding="utf-8")
    _write_csv(to / "tables.csv", _table_rows(found))
    _write_csv(to / "claims.csv", _claim_rows(found))


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("flash_ray.studies", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown; what becomes HTML is escaped by its renderer
    )
    made.filters["cell"] = _cell
    made.filters["signed"] = _signed
    made.filters["gap"] = made.filters["number"] = _number
    return made


def _cell(cell: tuple[Estimate, bool]) -> str:
    estimate, best = cell
    mean = f"**{estimate.mean:.2f}**" if best else f"{estimate.mean:.2f}"
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


def _budget(found: Findings) -> str:
    ((name, value),) = [(n, v) for n, v in found.study.budget if v is not None]
    return {"passes": f"{value:g} passes for each case"}.get(name, f"{value:,} {name}")


def _figures(found: Findings, out: Path, to: Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Draws the curves and grids; (file, description) of each by factor and bench."""
    study, drawn = found.study, {}
    own = [record for record in found.records.values() if record.seed in study.seeds]
    (to / FOLDER).mkdir(exist_ok=True)
    for table in found.tables:
        files = []
        arms = [row.arm for row in table.rows]
        if svg := figures.curves(arms, own, table.bench):
            file = f"{FOLDER}/curves-{table.factor}-{table.bench}.svg"
            (to / file).write_bytes(svg)
            files.append((file, f"{table.title}: small bench, {table.bench}, against updates"))
        strips = _strips(found, arms, out)
        if strips:
            sheet = figures.grid(list(strips), strips, study.benches, [table.bench])
            file = f"{FOLDER}/grid-{table.factor}-{table.bench}.webp"
            sheet.save(to / file, "WEBP", quality=85, method=6)
            files.append((file, f"{table.title}: the same cases and noise, seed {study.seeds[0]}"))
        drawn[table.factor, table.bench] = files
    return drawn


def _strips(found: Findings, arms: Sequence[str], out: Path) -> dict[str, Image.Image]:
    """The arms' pictures under the first seed, where there are any."""
    strips = {}
    for arm in arms:
        file = out / PICTURES / f"{found.study.name}-{arm}-{found.study.seeds[0]}.webp"
        if file.is_file():
            strips[arm] = Image.open(file).convert("RGB")
    return strips


def _teachers(found: Findings) -> list[dict[str, Any]]:
    """A row for each arm with several teachers, or one that is not the base, by rung."""
    rows = []
    for arm in found.study.arms:
        mine = [
            record.teachers
            for record in found.records.values()
            if record.arm == arm and record.seed in found.study.seeds and record.teachers
        ]
        if not mine or set(mine[0]) == {"base"}:
            continue
        for teacher in mine[0]:
            for rung in sorted(mine[0][teacher]):
                seen = [run[teacher][rung] for run in mine if rung in run[teacher]]
                row: dict[str, Any] = {"arm": arm, "teacher": teacher, "rung": rung}
                for measure in ("weight", "norm", "cosine"):
                    values = [cell[measure] for cell in seen if measure in cell]
                    row[measure] = sum(values) / len(values) if values else None
                rows.append(row)
    return rows


def _html(text: str, folder: Path) -> str:
    """The Markdown as HTML, its pictures inside."""

    def image(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
        token = tokens[index]
        file = folder / token.attrs["src"]
        kind = {"svg": "svg+xml", "webp": "webp"}[file.suffix[1:]]
        data = base64.b64encode(file.read_bytes()).decode()
        token.attrs["src"] = f"data:image/{kind};base64,{data}"
        token.attrs["alt"] = token.content
        return self.renderToken(tokens, index, options, env)

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    parser.add_render_rule("image", image)
    return parser.render(text)


def _table_rows(found: Findings) -> list[Mapping[str, Any]]:
    return [
        {
            "factor": table.factor,
            "bench": table.bench,
            "arm": row.arm,
            "column": column,
            "mean": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "best_or_tie": best,
            "rank": row.rank if column == AVERAGE else "",
            "ties": " ".join(map(str, row.ties)) if column == AVERAGE else "",
            "diversity_gap": row.diversity.get(column),
            "seeds": row.seeds,
        }
        for table in found.tables
        for row in table.rows
        for column, (estimate, best) in row.cells.items()
    ]


def _claim_rows(found: Findings) -> list[Mapping[str, Any]]:
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
        for v in found.verdicts
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
