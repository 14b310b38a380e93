"""What every answer goes through: errors in OpenAI's shape, headers, request ids, counts."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_ray.errors import UserError
from flash_ray.serving.metrics import GatewayMetrics
from flash_ray.storage.records import CorruptRecord

logger = logging.getLogger("ray.serve")

REQUEST_ID = "x-request-id"
SEND_S = 60.0  # for a client to take a part of its answer

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
CODES = {  # of an error that has none of its own
    400: "invalid_value",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    429: "rate_limit_exceeded",
    503: "unavailable",
}


class ApiError(Exception):
    """An error answer: its status, what is wrong and what is allowed, and which parameter."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers


def error_response(error: ApiError) -> JSONResponse:
    """The answer to a request, in the shape of OpenAI's errors."""
    kind = KINDS.get(error.status) or ("server_error" if error.status >= 500 else KINDS[400])
    param = error.param and _encodable(error.param)
    message = _encodable(error.message)
    code = error.code or CODES.get(error.status, kind)
    body = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, error.status, error.headers)


def _encodable(text: str) -> str:
    """The text without halves of characters, which a client may have put into a field's name."""
    return text.encode("utf-8", "replace").decode()


def busy(retry_after_s: int) -> ApiError:
    """The error of a full queue."""
    return ApiError(
        429,
        f"The queue is full; ask again in {retry_after_s} s.",
        headers={"Retry-After": str(retry_after_s)},
    )


def install_error_answers(app: FastAPI) -> None:
    """Makes every error of the application one of this shape."""
    handlers: dict[type[Exception], Callable[[Any], ApiError]] = {
        ApiError: lambda error: error,
        CorruptRecord: _from_corrupt_record,
        UserError: _from_user_error,
        RequestValidationError: _from_validation,
        HTTPException: lambda error: ApiError(
            error.status_code, str(error.detail), headers=error.headers
        ),
    }
    for kind, convert in handlers.items():
        app.add_exception_handler(kind, _handler(convert))


def _handler(
    convert: Callable[[Any], ApiError],
) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        return error_response(convert(error))

    return handle


def _from_user_error(error: UserError) -> ApiError:
    # Requests are checked before anything is done: what is wrong now is the server's part.
    logger.error("%s", error)
    return ApiError(503, "The server cannot do its part; its log says why.")


def _from_corrupt_record(error: CorruptRecord) -> ApiError:
    # The listings' log has named it, with the address.
    name = error.where.rpartition("://")[2].partition("/")[2] or "a record"
    return ApiError(503, f"{name} is corrupt: {error.reason}.", code="corrupt_record")


def _from_validation(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    path = [part for part in first["loc"][1:] if isinstance(part, str)]
    param = ".".join(path) or None
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
    return ApiError(400, f"{param or 'body'}: {first['msg']}", param, code.get(first["type"]))


HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Outermost:
    """What holds for every answer: headers, a request id, counts, and no error without its shape.

    The id is Ray's, or the client's own `x-request-id`; the log's lines of an error name it.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        given = Headers(scope=scope).get(REQUEST_ID)
        id = given or uuid.uuid4().hex

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if given is None:  # else Ray, which made it, adds it
                    headers[REQUEST_ID] = id
            async with asyncio.timeout(SEND_S):
                await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception:  # whatever it is: the client learns that it is the server's, and its id
            logger.exception("request %.100r failed: %s %.200r", id, scope["method"], scope["path"])
            if status:  # the answer has begun: all that is left is to break it off
                raise
            failed = ApiError(500, f"The server failed; its log knows why, by {id[:100]!r}.")
            await error_response(failed)(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(route, status or 500, time.perf_counter() - start)
