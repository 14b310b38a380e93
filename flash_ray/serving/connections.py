"""What one connection may hold before it has asked for anything: seconds, bytes, a place.

Ray Serve starts uvicorn, in its proxies and in the gateway's replica, and passes neither a time
limit on headers nor a bound on connections to it. `install` gives uvicorn a protocol that has both;
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH makes Ray call it in every process that listens.
"""

import asyncio
import json
import os
import resource
from collections import OrderedDict
from http import HTTPStatus
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_S = 10.0  # for a request's headers, from the connection or from the first byte of them
IDLE_S = 90.0  # between the requests of a connection: longer than proxies before it keep theirs
HEADER_BYTES = 65_536
MOST = 1000  # connections that have asked for nothing yet; as many wait between two requests
# Headers by which a client would tell Ray Serve when to give up, or not to notice that it has gone.
RAYS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
HOST_VARIABLE = "FLASH_RAY_SERVE_HOST"  # where the gateway's replica listens; unset: as Serve does
FILES = 8192  # that a process may have open, if the machine's hard limit lets it


def install() -> list[Any]:
    """Makes uvicorn use `BoundedHttp`; Ray calls it before uvicorn starts.

    Returns:
        No middlewares: that is what Ray asks for.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHttp.__name__}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if host := os.environ.get(HOST_VARIABLE):
        _replicas_listen_on(host)
    return []


def _replicas_listen_on(host: str) -> None:
    """Has a replica that listens itself do so on another address than Serve's proxies.

    Serve has one address for both, and a proxy where nobody needs one.
    """
    from ray.serve._private import replica

    module: Any = replica  # whose own name for it is what it calls
    start = module.start_asgi_http_server

    async def start_there(app: Any, options: Any, **more: Any) -> Any:
        return await start(app, options.model_copy(update={"host": host}), **more)

    module.start_asgi_http_server = start_there


class Waiting:
    """Connections that wait, the one that waits longest first; with one too many, that one goes."""

    def __init__(self, most: int):
        self._most = most
        self._connections: OrderedDict[BoundedHttp, None] = OrderedDict()

    def add(self, connection: "BoundedHttp") -> None:
        """Adds a connection that begins to wait."""
        self._connections[connection] = None
        if len(self._connections) > self._most:
            longest, _ = self._connections.popitem(last=False)
            longest.drop()

    def discard(self, connection: "BoundedHttp") -> None:
        """Removes a connection, if it is there."""
        self._connections.pop(connection, None)


# Apart, so that strangers who say nothing whole do not cost clients their open connections.
_new, _between = Waiting(MOST), Waiting(MOST)


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 without patience: who sends no whole headers in time is hung up on."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes since the last that were of use: of headers that are not whole
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _new.add(self)
        self._limit(HEADER_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        is_new = not self._in_body and not self._unread
        if is_new and self.cycle is not None and self.cycle.response_complete:
            self._limit(HEADER_S)
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEADER_BYTES and not self.transport.is_closing():
            self._answer(431, "The headers are too large; allowed: 64 KiB.", "too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() not in RAYS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._unread, self._in_body = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_chunk_complete(self) -> None:
        """Called by the parser; what follows the last chunk is headers again."""
        self._unread = 0

    def on_message_complete(self) -> None:
        self._unread, self._in_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or self.pipeline:
            return
        if self._in_body:  # it was answered early: what is left of the body goes to nobody
            _new.add(self)
            self._limit(HEADER_S)
        else:
            _between.add(self)
            self._limit(IDLE_S)

    def send_400_response(self, msg: str) -> None:
        self._answer(400, msg, "invalid_request")

    def drop(self) -> None:
        """Ends the connection at once."""
        self._stop_waiting()
        self.transport.abort()

    def _should_upgrade_to_ws(self) -> bool:
        return False  # nothing here speaks WebSocket

    def _limit(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(seconds, self._expire, seconds, unsent)

    def _expire(self, seconds: float, unsent: int) -> None:
        if 0 < self.transport.get_write_buffer_size() < unsent:
            self._limit(seconds)  # it still reads its answer
        else:
            self.drop()

    def _stop_waiting(self) -> None:
        _new.discard(self)
        _between.discard(self)
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _answer(self, status: int, message: str, code: str) -> None:
        """Answers what is no request, in the shape of all errors, and hangs up."""
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
