"""The endpoints: requests, times, batches, caches."""

from flash_ray.telemetry.alerts import ERRORS
from flash_ray.telemetry.panels import Dashboard, Panel, Query, failing, quantile, rate

_REQUESTS = rate("serve_request_seconds_count", "route")
_LOOKUPS = rate("serve_cache_lookups_total", "cache")
_HITS = rate("serve_cache_lookups_total", "cache", 'outcome="hit"')

SERVING = Dashboard(
    "flash-ray-serving",
    "flash_ray: serving",
    (
        Panel(
            "Requests",
            "reqps",
            "By route.",
            (Query(_REQUESTS, "{{route}}"),),
            stacked=True,
        ),
        Panel(
            "Requests that fail",
            "percentunit",
            "Answers of status 500 and above, by route.",
            (Query(failing("$__rate_interval"), "{{route}}"),),
            limit=ERRORS,
        ),
        Panel(
            "Latency",
            "s",
            "Of all requests by route, 95 %.",
            (Query(quantile(0.95, "serve_request_seconds", "route"), "{{route}}"),),
        ),
        Panel(
            "Refused and failed",
            "reqps",
            "By status. 429: too many requests; 401, 403: tokens.",
            (Query(rate("serve_errors_total", "status"), "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Time of a picture, by stage",
            "s",
            "Median of each stage. A long `queue` calls for replicas.",
            (Query(quantile(0.5, "serve_stage_seconds", "stage, task"), "{{task}} {{stage}}"),),
        ),
        Panel(
            "Pictures of a batch",
            "short",
            "Mean. Larger batches draw more pictures a second.",
            (
                Query(
                    f"{rate('serve_batch_pictures_sum', 'task')} / "
                    f"{rate('serve_batch_pictures_count', 'task')}",
                    "{{task}}",
                ),
            ),
        ),
        Panel(
            "Caches",
            "percentunit",
            "Share of look-ups that hit.",
            (
                Query(
                    f"({_HITS} or 0 * {_LOOKUPS}) / {_LOOKUPS}",
                    "{{cache}}",
                ),
            ),
        ),
        Panel(
            "Replicas",
            "short",
            "That are healthy.",
            (
                Query(
                    "sum by (deployment) (ray_serve_deployment_replica_healthy)",
                    "{{deployment}}",
                ),
            ),
        ),
    ),
)
