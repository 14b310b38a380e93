"""Panels of the dashboards, and the queries that they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

RUN = 'run=~"$run"'


def latest(metric: str, labels: str = "run") -> str:
    """PromQL of a run's gauge: its highest value over the processes that a run has had."""
    return f'max by ({labels}) (ray_flash_{metric}{{run=~"$run"}})'


def rate(metric: str, labels: str, where: str = "", window: str = "$__rate_interval") -> str:
    """PromQL of what a counter grows by a second.

    Args:
        where: which of its series count, as label matchers; all by default.
        window: the time over which the growth is averaged.
    """
    return f"sum by ({labels}) (rate(ray_flash_{metric}{{{where}}}[{window}]))"


def quantile(share: float, metric: str, labels: str, where: str = "") -> str:
    """PromQL of the value below which this share, 0 to 1, of a histogram's samples lies."""
    buckets = rate(f"{metric}_bucket", f"le, {labels}" if labels else "le", where)
    return f"histogram_quantile({share}, {buckets})"


def failing(window: str) -> str:
    """PromQL of the share of each route's requests answered with 500 and above, 0 to 1."""
    requests = rate("serve_request_seconds_count", "route", window=window)
    failed = rate("serve_errors_total", "route", 'status=~"5.."', window)
    return f"({failed} or 0 * {requests}) / {requests}"


DATASOURCE = {"type": "prometheus", "uid": "flash-ray-prometheus"}
COLUMNS = 24  # of Grafana's grid
HEIGHT = 8
SCHEMA = 39  # of the JSON: Grafana 10 and later read it


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called, a text with {{label}}."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A chart of queries over time.

    Args:
        unit: Grafana's name of the unit: s, bytes, percentunit, short, ...
        text: what it shows and when to worry.
        stacked: whether the series add up to something.
        limit: where an alert begins, drawn as a line; None: no line.
        width: how many of the grid's columns it takes.
    """

    title: str
    unit: str
    text: str
    queries: tuple[Query, ...]
    stacked: bool = False
    limit: float | None = None
    width: int = COLUMNS // 2


@dataclass(frozen=True)
class Dashboard:
    """Panels from left to right.

    Args:
        variable: (label, a metric that has it): a viewer chooses by its values; None: no choice.
    """

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variable: tuple[str, str] | None = None

    def filled(self, window: str) -> Sequence[Panel]:
        """The panels without a choice of the viewer's, with this window in place of Grafana's."""
        names = {"$__rate_interval": window}
        if self.variable:
            names[f"${self.variable[0]}"] = ".*"
        return [
            replace(panel, queries=tuple(_filled(query, names) for query in panel.queries))
            for panel in self.panels
        ]

    def json(self) -> dict[str, Any]:
        """Returns the dashboard in Grafana's JSON model."""
        x = y = 0
        panels = []
        for number, panel in enumerate(self.panels, 1):
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            grid = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            panels.append(_panel(panel, number, grid))
            x += panel.width
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["flash_ray"],
            "schemaVersion": SCHEMA,
            "timezone": "browser",
            "editable": True,
            "refresh": "15s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [_variable(*self.variable)] if self.variable else []},
            "panels": panels,
        }


def _filled(query: Query, names: dict[str, str]) -> Query:
    expr = query.expr
    for name, value in names.items():
        expr = expr.replace(name, value)
    return Query(expr, query.legend)


def _panel(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"drawStyle": "line", "lineWidth": 2, "showPoints": "never"}
    custom |= {"fillOpacity": 60 if panel.stacked else 8}
    custom |= {"stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom}
    if panel.limit is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
        steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": grid,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _variable(label: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }
