"""What the endpoints measure; Ray exports it to Prometheus with `ray_` before each name."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Histogram

# Ray's agent exports, for every value, the middle of its bucket: sums and means are made of those.
SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120]


class DrawingMetrics:
    """What a drawing replica measures."""

    def __init__(self) -> None:
        self._stage = Histogram(
            "flash_serve_stage_seconds",
            "Seconds of a request in each stage: queue, encode, denoise, decode.",
            SECONDS,
            ("stage", "task"),
        )
        self._batch = Histogram(
            "flash_serve_batch_pictures",
            "Pictures of a batch.",
            [0.5, 1.5, 2.5, 5.5, 10.5, 21.5, 42.5, 85.5, 170.5, 341.5],  # 1, 2, 4, ... 256
            ("task",),
        )
        self._cache = Counter(
            "flash_serve_cache_lookups",
            "Look-ups in a cache (condition, prefix), by outcome (hit, miss).",
            ("cache", "outcome"),
        )

    def stages(self, task: str, seconds: Mapping[str, float]) -> None:
        """Observes the seconds of a request's stages."""
        for stage, value in seconds.items():
            self._stage.observe(value, {"stage": stage, "task": task})

    def batch(self, task: str, pictures: int) -> None:
        """Observes the pictures of a batch."""
        self._batch.observe(pictures, {"task": task})

    def cache(self, name: str, hits: int, misses: int) -> None:
        """Counts look-ups in a cache."""
        for outcome, count in (("hit", hits), ("miss", misses)):
            if count:
                self._cache.inc(count, {"cache": name, "outcome": outcome})


class GatewayMetrics:
    """What the gateway measures."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "flash_serve_request_seconds", "Seconds of a request, by route.", SECONDS, ("route",)
        )
        self._errors = Counter(
            "flash_serve_errors", "Requests that were answered with an error.", ("route", "status")
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request; `route` is a route's pattern, so labels stay few."""
        self._seconds.observe(seconds, {"route": route})
        if status >= 400:
            self._errors.inc(1, {"route": route, "status": str(status)})
