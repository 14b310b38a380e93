"""Figures of a study's report, as SVG: all claims in one, and scores during training."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flash_ray.recipe.schema import Task
from flash_ray.studies.records import Record
from flash_ray.studies.verdicts import ClaimVerdict, Verdict

matplotlib.rcParams["svg.hashsalt"] = "flash_ray"  # the same figure is the same file
COLORS: Mapping[Verdict, str] = {
    "replicated": "#1a7f37",
    "contradicted": "#cf222e",
    "no effect": "#0969da",
    "undecided": "#8c959f",
}
ROW, TOP = 0.32, 0.9  # inches: of a claim, of the axis and title of an outcome


def forest(verdicts: Sequence[ClaimVerdict]) -> bytes | None:
    """Plots the difference of every claim by outcome: 95 % and 90 % intervals, the band of ±δ, and
    what the source reports. None if nothing has an interval.

    Claims are numbered as in `verdicts`, from 1.
    """
    numbered = [
        (number, v)
        for number, v in enumerate(verdicts, 1)
        if v.effect and not np.isnan(v.effect.se)
    ]
    groups: dict[tuple[str, float], list[tuple[int, ClaimVerdict]]] = {}
    for number, v in numbered:
        groups.setdefault((v.claim.outcome, v.margin), []).append((number, v))
    if not groups:
        return None
    heights = [TOP + ROW * len(of) for of in groups.values()]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for of_outcome, ((outcome, margin), rows) in zip(axes, groups.items(), strict=True):
        _rows(of_outcome, margin, rows)
        of_outcome.set_xlabel(f"left - right, {outcome}; band: ±{margin:g}", fontsize=8)
    handles = [
        matplotlib.lines.Line2D([], [], color=color, marker="o", linewidth=2, label=verdict)
        for verdict, color in COLORS.items()
    ]
    source = matplotlib.lines.Line2D(
        [], [], color="black", marker="D", markerfacecolor="none", linewidth=0, label="the source's"
    )
    figure.legend(handles=[*handles, source], loc="outside upper center", ncols=5, fontsize=8)
    return _svg(figure)


def _rows(axes: Axes, margin: float, rows: Sequence[tuple[int, ClaimVerdict]]) -> None:
    axes.axvspan(-margin, margin, color="#eaeef2", linewidth=0)
    axes.axvline(0, color="black", linewidth=0.8)
    for position, (_, v) in enumerate(rows):
        assert v.effect, "only what has an interval is drawn"
        for level, width in ((0.95, 1.2), (0.9, 3.2)):
            axes.hlines(position, *v.effect.interval(level), color=COLORS[v.verdict], lw=width)
        axes.plot(v.effect.mean, position, "o", color=COLORS[v.verdict], markersize=5)
        if v.claim.effect is not None:
            axes.plot(v.claim.effect, position, "D", color="black", mfc="none", markersize=6)
    labels = [f"{number}  {sides_of(v)}" for number, v in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)


def sides_of(v: ClaimVerdict) -> str:
    """What a claim compares and on what, in short."""
    claim = v.claim
    left, right = (", ".join(names) for names in (claim.left, claim.right))
    if claim.expect == "best" and len(claim.right) > 1:
        right = f"each of {right}"
    early = ", early" if claim.horizon == "early" else ""
    return f"{left} - {right}: {claim.measure}{early}"


def curves(arms: Sequence[str], records: Sequence[Record], task: Task) -> bytes | None:
    """Plots scores during training: means over seeds, and a band of the standard error that all
    arms' seeds together say. None without data."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    tables = {arm: found for arm in arms if (found := _runs(arm, records, task))}
    if not tables:
        return None
    spread = _spread(list(tables.values()))
    for arm, runs in tables.items():
        iterations = sorted(set.intersection(*(set(run) for run in runs)))
        mean_I = np.array([np.mean([run[n] for run in runs]) for n in iterations])
        se_I = np.array([spread[n] for n in iterations]) / np.sqrt(len(runs))
        (line,) = axes.plot(iterations, mean_I, label=arm, linewidth=1.4)
        color = line.get_color()
        axes.fill_between(iterations, mean_I - se_I, mean_I + se_I, color=color, alpha=0.15, lw=0)
    axes.set_xlabel("iterations")
    axes.set_ylabel(f"score on development cases, {task}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure)


def _runs(arm: str, records: Sequence[Record], task: Task) -> list[dict[int, float]]:
    """Scores by iteration, of each seed that has any."""
    of_arm = [record.curve for record in records if record.arm == arm]
    runs = [{n: scores[task] for n, scores in curve if task in scores} for curve in of_arm]
    return [run for run in runs if run]


def _spread(arms: Sequence[Sequence[Mapping[int, float]]]) -> dict[int, float]:
    """The standard deviation over seeds at each iteration, pooled over arms; 0 with one seed."""
    found = {}
    for iteration in {n for runs in arms for run in runs for n in run}:
        values = [[run[iteration] for run in runs if iteration in run] for runs in arms]
        known = [of for of in values if len(of) > 1]
        squares = sum(float(np.var(of)) * len(of) for of in known)
        found[iteration] = float(np.sqrt(squares / max(sum(len(of) - 1 for of in known), 1)))
    return found


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
