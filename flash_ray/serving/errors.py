"""Errors in the shape that OpenAI's clients read: {"error": {message, type, param, code}}."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from flash_ray.errors import UserError

logger = logging.getLogger("ray.serve")

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A refusal: its status, what is wrong and what is allowed, and the parameter it is about."""

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
    kind = KINDS.get(error.status) or ("server_error" if error.status >= 500 else KINDS[400])
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return JSONResponse({"error": body}, error.status, error.headers)


def busy(retry_after_s: int) -> ApiError:
    return ApiError(
        429,
        f"The queue is full; ask again in {retry_after_s} s.",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(retry_after_s)},
    )


def install(app: FastAPI) -> None:
    """Makes every error of the application one of this shape."""
    handlers: dict[type[Exception], Callable[[Any], ApiError]] = {
        ApiError: lambda error: error,
        UserError: _of_user_error,
        RequestValidationError: _of_validation,
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


def _of_user_error(error: UserError) -> ApiError:
    # Requests are checked before anything is done: what is wrong now is ours, the store's mostly.
    logger.error("%s", error)
    return ApiError(503, "The server cannot do its part; its log says why.", code="unavailable")


def _of_validation(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    path = [part for part in first["loc"][1:] if isinstance(part, str)]
    param = ".".join(path) or None
    return ApiError(400, f"{param or 'body'}: {first['msg']}", param)
