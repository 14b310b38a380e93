"""PromQL that dashboards and alerts share; `$run` is what a dashboard's reader chose."""

RUN = 'run=~"$run"'


def latest(metric: str, labels: str = "run") -> str:
    """A gauge of runs: of a run's processes the one that is there."""
    return f'max by ({labels}) (ray_flash_{metric}{{run=~"$run"}})'


def rate(metric: str, labels: str, where: str = "", window: str = "$__rate_interval") -> str:
    """Of a counter, by second."""
    return f"sum by ({labels}) (rate(ray_flash_{metric}{{{where}}}[{window}]))"


def quantile(share: float, metric: str, labels: str, where: str = "") -> str:
    buckets = rate(f"{metric}_bucket", f"le, {labels}" if labels else "le", where)
    return f"histogram_quantile({share}, {buckets})"


def failing(window: str) -> str:
    """The share of the requests of each route that are answered with 500 and above, 0 to 1."""
    requests = rate("serve_request_seconds_count", "route", window=window)
    failed = rate("serve_errors_total", "route", 'status=~"5.."', window)
    return f"({failed} or 0 * {requests}) / {requests}"
