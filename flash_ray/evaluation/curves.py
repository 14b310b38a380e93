"""Curves of a run's log as inline SVG, without a plotting library."""

from collections.abc import Mapping, Sequence
from html import escape

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
