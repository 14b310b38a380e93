"""Asks a Prometheus over HTTP."""

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
        """The legend with its {{labels}} filled in, as Grafana does."""
        return re.sub(r"{{(\w+)}}", lambda found: self.labels.get(found[1], ""), legend)


def ask(url: str, path: str, **parameters: Any) -> Any:
    """The data of an API call, e.g. `rules`.

    Raises:
        UserError: there is no Prometheus, or it refuses the query.
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


def ask_range(url: str, expr: str, start: float, end: float, step: float) -> list[Series]:
    """The series of a query between two times, those that have values."""
    data = ask(url, "query_range", query=expr, start=start, end=end, step=step)
    found = []
    for one in data["result"]:
        points = [(time, float(value)) for time, value in one["values"]]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            found.append(Series(one["metric"], *zip(*points, strict=True)))
    return found
