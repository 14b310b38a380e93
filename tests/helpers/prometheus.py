"""Queries a Prometheus over HTTP."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

from flash_ray.errors import UserError

TIMEOUT_S = 30


@dataclass(frozen=True)
class Series:
    """Values over time, in seconds since 1970; those that are no number are left out."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    def name(self, legend: str) -> str:
        """Returns the legend with its {{labels}} filled in, as Grafana does."""
        return re.sub(r"{{(\w+)}}", lambda match: self.labels.get(match[1], ""), legend)


def query(url: str, path: str, **parameters: Any) -> Any:
    """Returns the data of an API call, e.g. `rules`.

    Raises:
        UserError: there is no Prometheus, or it rejects the query.
    """
    try:
        answer = requests.get(f"{url}/api/v1/{path}", params=parameters, timeout=TIMEOUT_S).json()
    except requests.RequestException as error:
        raise UserError(
            f"--prometheus: {url} does not answer as Prometheus does; allowed: its base address; "
            "correct it, or start it"
        ) from error
    if answer["status"] != "success":
        raise UserError(f"--prometheus: {url}: {answer['error']}; query {parameters}")
    return answer["data"]


def query_range(url: str, expr: str, start: float, end: float, step: float) -> list[Series]:
    """Returns the series of a query between two times, those that have values."""
    data = query(url, "query_range", query=expr, start=start, end=end, step=step)
    series = []
    for row in data["result"]:
        points = [(time, float(value)) for time, value in row["values"]]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            series.append(Series(row["metric"], *zip(*points, strict=True)))
    return series
