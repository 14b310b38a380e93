"""What every answer goes through: bodies of bounded size, headers, counts of answers and errors."""

import time
from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_ray.serving.errors import ApiError, error_response
from flash_ray.serving.metrics import GatewayMetrics

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class BoundedBodies:
    """Refuses bodies that are too long, by their declared length or as they come in.

    Args:
        most: bytes by path, and under "" for every other path.
    """

    def __init__(self, app: ASGIApp, most: Mapping[str, int]):
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most.get(scope["path"], self._most[""])
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        message = f"The body is too large; allowed: {most} bytes."
        if declared.isdigit() and int(declared) > most:
            await error_response(ApiError(413, message))(scope, receive, send)
            return
        came = 0

        async def bounded() -> Message:
            nonlocal came
            part = await receive()
            came += len(part.get("body", b""))
            if came > most:
                raise HTTPException(413, message)  # FastAPI lets this one through its parsers
            return part

        await self._app(scope, bounded, send)


class Counted:
    """Adds the headers, and counts answers by route."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(route, status, time.perf_counter() - start)
