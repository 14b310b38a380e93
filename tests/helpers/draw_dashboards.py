"""`python -m tests.helpers.draw_dashboards DIR` draws the dashboards as PNG files.

The values are those that a Prometheus answers; the pictures of the guides were made so.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter
from PIL import Image

from flash_ray.telemetry.dashboards import DASHBOARDS
from flash_ray.telemetry.panels import Dashboard, Panel
from tests.helpers.prometheus import Series, query_range

WINDOW = "1m"  # of rates
POINTS = 240  # over the whole time
COLUMNS = 3
COLORS = 64  # of a picture
GAP = 12.5  # steps without a value, after which a line is broken
NAMED = 6  # series in a legend; more would hide the chart
PanelData = Mapping[str, Sequence[tuple[str, Series]]]  # by the panel's title: (name, series)

BYTES, SECONDS = EngFormatter("B", sep=" "), EngFormatter("s", sep=" ")
UNITS = {
    "bytes": BYTES,
    "Bps": EngFormatter("B/s", sep=" "),
    "percent": PercentFormatter(100, decimals=0),
    "percentunit": PercentFormatter(1),
    "reqps": EngFormatter("/s", sep=" "),
    "s": SECONDS,
    "short": FuncFormatter(lambda value, _: f"{value:g}"),
}


def read_panels(dashboard: Dashboard, url: str, start: float, end: float) -> PanelData:
    """Returns what the panels' queries give between two times, in seconds since 1970."""
    step = max(1.0, (end - start) / POINTS)
    return {
        panel.title: [
            (series.name(query.legend), series)
            for query in panel.queries
            for series in query_range(url, query.expr, start, end, step)
        ]
        for panel in dashboard.filled(WINDOW)
    }


def draw(dashboard: Dashboard, data: PanelData, path: Path) -> None:
    """Draws the dashboard over the time of which there are data."""
    times = [point for named in data.values() for _, series in named for point in series.times]
    first, last = (min(times), max(times)) if times else (0.0, 1.0)
    scale, unit = (60, "min") if last - first > 180 else (1, "s")
    rows = -(-len(dashboard.panels) // COLUMNS)
    figure = Figure(figsize=(12, 0.5 + 2.6 * rows), layout="constrained", facecolor="#f4f5f7")
    figure.suptitle(dashboard.title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, panel in zip(grid, dashboard.panels, strict=False):
        _panel(axes, panel, [(name, _moved(s, first, scale)) for name, s in data[panel.title]])
        axes.set_xlim(0, max(last - first, 1.0) / scale)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} {unit}"))
        _legend(axes)
    for axes in grid[len(dashboard.panels) :]:
        axes.set_axis_off()
    file = BytesIO()
    figure.savefig(file, dpi=80)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(COLORS).save(path, optimize=True)


def _moved(series: Series, first: float, scale: float) -> Series:
    """Returns the series with its times since the first, in units of `scale` seconds."""
    return replace(series, times=tuple((point - first) / scale for point in series.times))


def _panel(axes: Axes, panel: Panel, named: Sequence[tuple[str, Series]]) -> None:
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    if panel.stacked and named:
        times = sorted({point for _, series in named for point in series.times})
        heights = [_at(series, times) for _, series in named]
        axes.stackplot(times, heights, labels=[name for name, _ in named], alpha=0.75)
    else:
        for name, series in named:
            axes.plot(*_with_gaps(series), lw=1.6, label=name)
    if panel.limit is not None:
        axes.axhline(panel.limit, color="#c4162a", lw=1, ls="--")
    axes.yaxis.set_major_formatter(UNITS[panel.unit])
    highest = max((max(series.values) for _, series in named), default=0.0)
    low, high = axes.get_ylim() if highest else (0.0, 1.0)
    axes.set_ylim(min(0.0, low), high + 0.1 * abs(high))  # the top line is not at the edge
    axes.tick_params(labelsize=8)
    axes.grid(color="#dddddd", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    more, names = len(names) - NAMED, names[:NAMED]
    if more > 0:
        names[-1] += f" (and {more} more)"
    if names:
        position = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1)}
        look = {"fontsize": 7, "frameon": False, "handlelength": 1.2, "columnspacing": 0.8}
        axes.legend(handles[:NAMED], names, ncols=2, **look, **position)


def _with_gaps(series: Series) -> tuple[Sequence[float], Sequence[float]]:
    """Returns times and values, with a NaN where nothing was measured for a while."""
    times, values = np.array(series.times), np.array(series.values)
    steps = np.diff(times)
    holes = np.flatnonzero(steps > GAP * np.median(steps)) + 1 if len(steps) else []
    return np.insert(times, holes, np.nan), np.insert(values, holes, np.nan)


def _at(series: Series, times: Sequence[float]) -> list[float]:
    """Returns the values at these times, 0 where there are none."""
    known = dict(zip(series.times, series.values, strict=True))
    return [known.get(point, 0.0) for point in times]


def main(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Where the pictures go.")],
    prometheus: Annotated[str, typer.Option(metavar="URL")] = "http://localhost:9090",
    minutes: Annotated[float, typer.Option(min=0.1, help="How far back.")] = 60,
) -> None:
    """Draw what each dashboard shows."""
    end = time.time()
    out.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        path = out / f"{dashboard.uid.removeprefix('flash-ray-')}.png"
        draw(dashboard, read_panels(dashboard, prometheus, end - 60 * minutes, end), path)
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
