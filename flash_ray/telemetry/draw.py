"""`python -m flash_ray.telemetry.draw`: the dashboards as PNG files, from a Prometheus' answers."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter

from flash_ray.telemetry.dashboards import DASHBOARDS
from flash_ray.telemetry.panels import Dashboard, Panel
from flash_ray.telemetry.prometheus import Series, ask_range

WINDOW = "1m"  # of rates
POINTS = 240  # over the time that is asked for
NAMED = 8  # series in a legend; more would hide the chart
Answers = Mapping[str, Sequence[tuple[str, Series]]]  # by panel: (name, series)

BYTES, SECONDS = EngFormatter("B", sep=" "), EngFormatter("s", sep=" ")
UNITS = {
    "bytes": BYTES,
    "Bps": EngFormatter("B/s", sep=" "),
    "percent": PercentFormatter(100),
    "percentunit": PercentFormatter(1),
    "reqps": EngFormatter("/s", sep=" "),
    "s": SECONDS,
    "short": FuncFormatter(lambda value, _: f"{value:g}"),
}


def answers(dashboard: Dashboard, url: str, start: float, end: float) -> Answers:
    """What the panels' queries return."""
    step = max(1.0, (end - start) / POINTS)
    return {
        panel.title: [
            (series.name(query.legend), series)
            for query in panel.queries
            for series in ask_range(url, query.expr, start, end, step)
        ]
        for panel in dashboard.filled(WINDOW)
    }


def draw(dashboard: Dashboard, found: Answers, path: Path) -> None:
    """Draws the dashboard over the time of which there are data."""
    times = [point for own in found.values() for _, one in own for point in one.times]
    first, last = (min(times), max(times)) if times else (0.0, 1.0)
    rows = -(-len(dashboard.panels) // 2)
    figure = Figure(figsize=(11, 0.6 + 2.5 * rows), layout="constrained", facecolor="#f4f5f7")
    figure.suptitle(dashboard.title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    grid = figure.subplots(rows, 2, squeeze=False).flatten()
    for axes, panel in zip(grid, dashboard.panels, strict=False):
        _panel(axes, panel, found[panel.title], first)
        axes.set_xlim(0, max(last - first, 1.0))
    for axes in grid[len(dashboard.panels) :]:
        axes.set_axis_off()
    figure.savefig(path, dpi=80, pil_kwargs={"optimize": True})


def _panel(axes: Axes, panel: Panel, series: Sequence[tuple[str, Series]], first: float) -> None:
    axes.set_title(panel.title, fontsize=10, loc="left")
    if panel.stacked and series:
        times = sorted({point for _, one in series for point in one.times})
        heights = [_at(one, times) for _, one in series]
        names = [name for name, _ in series]
        axes.stackplot(np.array(times) - first, heights, labels=names, alpha=0.75)
    else:
        for name, one in series:
            x, y = np.array(one.times) - first, np.array(one.values)
            axes.plot(x, y, lw=1.6, marker="." if len(x) < 3 else None, label=name)
    if panel.limit is not None:
        axes.axhline(panel.limit, color="#c4162a", lw=1, ls="--")
    axes.yaxis.set_major_formatter(UNITS[panel.unit])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 60:.3g} min"))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    more, names = len(names) - NAMED, names[:NAMED]
    if more > 0:
        names[-1] += f" (and {more} more)"
    if names:
        axes.legend(
            handles[:NAMED],
            names,
            fontsize=7,
            ncols=2 if len(names) > 3 else 1,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
        )


def _at(series: Series, times: Sequence[float]) -> list[float]:
    """Its values at these times, 0 where there are none."""
    known = dict(zip(series.times, series.values, strict=True))
    return [known.get(point, 0.0) for point in times]


def main(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where the pictures go.")],
    prometheus: Annotated[str, typer.Option(metavar="URL")] = "http://localhost:9090",
    minutes: Annotated[float, typer.Option(min=0.1, help="How far back.")] = 60,
) -> None:
    """Draw what each dashboard shows."""
    end = time.time()
    for one in DASHBOARDS:
        path = out / f"{one.uid.removeprefix('flash-ray-')}.png"
        draw(one, answers(one, prometheus, end - 60 * minutes, end), path)
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
