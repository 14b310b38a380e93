"""Who gets in, and with how much: each door answers before a body is read or work is begun."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from time import monotonic

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flash_ray.serving.http import ApiError, busy, error_response
from flash_ray.serving.tokens import Token, role_of

API = "/v1/"  # what is not under it is the gallery's page, liveness and the document: public
HEALTH = "/healthz"
LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE)
BODY_S = 10.0  # for a body, and a second more for each
BODY_BYTES_S = 32_768  # bytes of it
REQUESTS = 1000  # at once; far fewer of them can wait for a picture


class Door(ABC):
    """A middleware that lets a request through or answers with the error that `check` raises."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self.check(scope)
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @abstractmethod
    def check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is not let in."""


class SameMachine(Door):
    """Without tokens, for people at this machine and the pages of this server alone.

    A page of another site could otherwise have its visitors' browsers ask: by a name that it has
    resolved to 127.0.0.1, or by requests whose answers it cannot read but whose work is done.
    """

    def check(self, scope: Scope) -> None:
        """Raises ApiError 403 for a Host that is not this machine's, and for other sites."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not LOOPBACK.fullmatch(host):
            raise _forbidden(
                f"Host {host[:100]!r}: without tokens the server answers at 127.0.0.1, localhost "
                "and [::1] alone; start it with --tokens.",
                "host_not_allowed",
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = origin is not None and origin.partition("://")[2] != host
        # Anybody may link to the gallery's page: there, other sites' requests are harmless.
        if foreign or (scope["path"].startswith(API) and site not in ("same-origin", "none")):
            raise _forbidden(
                f"Origin {(origin or site)[:100]!r}: without tokens other sites may not ask; start "
                "the server with --tokens.",
                "origin_not_allowed",
            )
        scope.setdefault("state", {})["role"] = "admin"


class Authenticated(Door):
    """Lets requests with a token to the API, and puts its role into their state."""

    def __init__(self, app: ASGIApp, tokens: Sequence[Token]):
        super().__init__(app)
        self._tokens = list(tokens)

    def check(self, scope: Scope) -> None:
        """Raises ApiError 401 for the API without a token that is known."""
        if not scope["path"].startswith(API):
            return
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        challenge = {"WWW-Authenticate": "Bearer"}
        if kind.lower() != "bearer" or not secret:
            problem = "No token; send Authorization: Bearer TOKEN."
            raise ApiError(401, problem, code="no_token", headers=challenge)
        role = role_of(secret.strip(), self._tokens)
        if role is None:
            problem = "The token is not known."
            raise ApiError(401, problem, code="invalid_api_key", headers=challenge)
        scope.setdefault("state", {})["role"] = role


class BoundedBodies:
    """Bounds what is being received and worked on: bytes of a body, its seconds, and all at once.

    A body that is too long is answered with 413, one that comes too slowly with 408, and with 429
    one too many, or what would make the bodies of all requests hold more than `memory`.

    Args:
        most: bytes by path, and under "" for every other path.
        memory: bytes of all bodies that are worked on.
        retry_after_s: seconds that a 429 asks the client to wait.
    """

    def __init__(self, app: ASGIApp, most: Mapping[str, int], memory: int, retry_after_s: int):
        self._app, self._most, self._memory = app, most, memory
        self._retry_after_s = retry_after_s
        self._requests = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == HEALTH:
            await self._app(scope, receive, send)
            return
        most = self._most.get(scope["path"], self._most[""])
        too_large = f"The body is too large; allowed: {most} bytes."
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            await error_response(ApiError(413, too_large))(scope, receive, send)
            return
        if self._requests >= REQUESTS:
            await error_response(busy(self._retry_after_s))(scope, receive, send)
            return
        received, start, whole = 0, monotonic(), False

        # FastAPI lets an HTTPException through its parsers, and no other error.
        async def bounded() -> Message:
            nonlocal received, whole
            if whole:  # what follows is the end of the connection, which may be far
                return await receive()
            left = start + BODY_S + received / BODY_BYTES_S - monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except TimeoutError:
                raise HTTPException(408, "The body came too slowly.") from None
            size = len(message.get("body", b""))
            received += size
            self._held += size
            whole = not message.get("more_body", False)
            if received > most:
                raise HTTPException(413, too_large)
            if self._held > self._memory:
                waiting = busy(self._retry_after_s)
                raise HTTPException(429, waiting.message, waiting.headers)
            return message

        self._requests += 1
        try:
            await self._app(scope, bounded, send)
        finally:
            self._requests -= 1
            self._held -= received


def _forbidden(message: str, code: str) -> ApiError:
    return ApiError(403, message, code=code)
