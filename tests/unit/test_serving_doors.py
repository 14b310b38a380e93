"""The doors of the endpoints: who gets in, and what nobody may hold, in front of a small app."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from PIL import Image
from ray.serve._private import replica
from ray.serve.config import HTTPOptions

from flash_ray.cluster.session import free_ports
from flash_ray.serving import connections, doors, images
from flash_ray.serving.doors import Authenticated, BoundedBodies, SameMachine
from flash_ray.serving.http import install_error_answers
from flash_ray.serving.settings import Limits
from flash_ray.serving.tokens import add_token, read_tokens

HERE = "http://127.0.0.1:8000"


def application() -> FastAPI:
    app = FastAPI()
    install_error_answers(app)

    @app.get("/")
    async def page() -> str:
        return "page"

    @app.get("/healthz")
    async def health() -> str:
        return "ok"

    @app.post("/v1/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


def local() -> TestClient:
    app = application()
    app.add_middleware(SameMachine)
    return TestClient(app, base_url=HERE)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8000"]
)
def test_without_tokens_this_machine_s_names_are_answered(host):
    assert local().post("/v1/echo", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1", "10.0.0.1", "[::2]", ""]
)
def test_without_tokens_no_other_name_is_answered(host):
    for path in ("/", "/v1/echo"):
        answer = local().request("POST", path, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": HERE, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),  # typed by a person
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),  # another server of this machine
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_without_tokens_no_other_site_may_ask(headers, status):
    assert local().post("/v1/echo", headers=headers).status_code == status


def test_another_site_may_link_to_the_page():
    assert local().get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_the_token_is_checked_before_the_body_is_read(tmp_path):
    secret = add_token(tmp_path / "tokens.json", "me", "admin")
    app = application()
    app.add_middleware(Authenticated, tokens=read_tokens(tmp_path / "tokens.json"))

    for headers in ({}, {"Authorization": "Bearer fr-x"}, {"Authorization": f"Basic {secret}"}):
        read, status = asyncio.run(asked(app, headers))
        assert (read, status) == (0, 401)
    client = TestClient(app, base_url=HERE)
    allowed = {"Authorization": f"bearer  {secret}"}
    assert client.post("/v1/echo", content=b"abc", headers=allowed).json() == 3
    assert client.get("/").status_code == client.get("/healthz").status_code == 200


async def asked(app: FastAPI, headers: dict[str, str]) -> tuple[int, int]:
    """How often the application asked for a part of the body, and its status."""
    reads, statuses = 0, []

    async def receive() -> dict:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/echo", "headers": sent}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("x", 1)}
    await app(scope, receive, send)
    return reads, statuses[0]


def bounded(memory: int = 1000) -> FastAPI:
    app = application()
    app.add_middleware(BoundedBodies, most={"": 600}, memory=memory, retry_after_s=7)
    return app


def test_bodies_are_bounded_one_by_one_and_together():
    client = TestClient(bounded(), base_url=HERE)
    assert client.post("/v1/echo", content=b"x" * 600).json() == 600
    assert client.post("/v1/echo", content=b"x" * 601).status_code == 413
    assert client.post("/v1/echo", content=iter([b"x" * 601])).status_code == 413
    assert client.post("/v1/echo", content=b"x" * 600).json() == 600  # nothing is held any more
    full = TestClient(bounded(memory=500), base_url=HERE).post("/v1/echo", content=b"x" * 600)
    assert (full.status_code, full.headers["retry-after"]) == (429, "7")
    assert full.json()["error"]["type"] == "rate_limit_error"


def test_uploads_are_decoded_one_at_a_time(monkeypatch):
    now = most = 0
    real = images.upright_rgb

    def counted(opened):
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.02)  # another would begin meanwhile, if it were let
        now -= 1
        return real(opened)

    monkeypatch.setattr(images, "upright_rgb", counted)
    file = images.png(Image.new("RGB", (64, 64)))

    async def scenario():
        return await asyncio.gather(
            *(images.open_upload(BytesIO(file), Limits()) for _ in range(8))
        )

    assert [picture.size for picture in asyncio.run(scenario())] == [(64, 64)] * 8
    assert (now, most) == (0, 1)


def test_liveness_is_answered_while_every_slot_is_taken(monkeypatch):
    monkeypatch.setattr(doors, "REQUESTS", 0)
    client = TestClient(bounded(), base_url=HERE)
    assert client.post("/v1/echo").status_code == 429
    assert client.get("/healthz").status_code == 200


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def server(app: FastAPI) -> AsyncIterator[Callable[[], Awaitable[Streams]]]:
    """uvicorn with the bounded protocol, as Ray starts it; gives connections to it."""
    assert connections.install() == []
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
    assert config.http == "auto"
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    try:
        yield lambda: asyncio.open_connection("127.0.0.1", port)
    finally:
        running.should_exit = True
        await task


@pytest.fixture
def soon(monkeypatch):
    """Limits of moments."""
    monkeypatch.setattr(connections, "HEADER_S", 0.3)
    monkeypatch.setattr(connections, "IDLE_S", 0.3)
    monkeypatch.setattr(doors, "BODY_S", 0.3)


HEAD = b"POST /v1/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n"


@pytest.mark.parametrize("sent", [b"", b"POST /v1/echo HT", HEAD], ids=["nothing", "part", "head"])
def test_headers_that_do_not_come_end_the_connection(soon, sent):
    async def scenario():
        async with server(bounded()) as connect:
            reader, writer = await connect()
            writer.write(sent)
            assert await reader.read() == b""

    within(scenario())


def test_a_body_that_does_not_come_is_answered(soon):
    async def scenario():
        async with server(bounded()) as connect:
            reader, writer = await connect()
            writer.write(HEAD + b"\r\nx")
            assert (await reader.readline()).split()[1] == b"408"
            rest = await reader.read()  # and the connection ends, although no body was ever whole
            assert b'"type":"timeout_error"' in rest

    within(scenario())


CHUNKS = b"POST /v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"


@pytest.mark.parametrize(
    ("first", "noise", "status"),
    [
        (b"", b"GET / HTTP/1.1\r\nX: ", 431),
        (CHUNKS, b"0\r\nTrailer: ", 431),
        (CHUNKS, b"5;extension=", 431),
        (b"", b"\x00?\r\n", 400),
    ],
    ids=["header", "trailer", "chunk", "noise"],
)
def test_what_has_no_end_and_noise_are_answered_as_all_errors(first, noise, status):
    async def scenario():
        async with server(bounded()) as connect:
            reader, writer = await connect()
            writer.write(first)
            await asyncio.sleep(0.2)  # the server has taken it: what follows is counted whole
            # Not a byte more than it takes: what is left unread may cost the answer.
            missing = connections.HEADER_BYTES + 1 - len(noise) if status == 431 else 0
            writer.write(noise + b"x" * missing)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert int(head.split()[1]) == status
            said = json.loads(body)["error"]
            assert set(said) == {"message", "type", "param", "code"} and said["code"]

    within(scenario())


def test_a_client_does_not_command_ray():
    app = application()

    @app.get("/v1/headers")
    async def headers(request: Request) -> list[str]:
        return list(request.headers)

    async def scenario():
        async with server(app) as connect:
            reader, writer = await connect()
            writer.write(
                b"GET /v1/headers HTTP/1.1\r\nX-Request-Timeout-Seconds: 0.001\r\nX-Mine: 1\r\n"
                b"X-Request-Disconnect-Disabled: ?1\r\nConnection: close\r\n\r\n"
            )
            assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2]) == [
                "x-mine",
                "connection",
            ]

    within(scenario())


def test_with_too_many_connections_the_one_that_waits_longest_goes(monkeypatch):
    monkeypatch.setattr(connections, "_new", connections.Waiting(3))

    async def scenario():
        async with server(bounded()) as connect:
            strangers = [await connect() for _ in range(6)]
            request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            reader, writer = await connect()
            writer.write(request)
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            for reader, _ in strangers[:3]:
                assert await end_of(reader)
            reader, writer = strangers[-1]
            writer.write(request)
            assert (await reader.read()).startswith(b"HTTP/1.1 200")

    within(scenario())


async def end_of(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def within(scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_a_replica_that_listens_itself_does_so_where_it_is_told(monkeypatch):
    monkeypatch.setattr(replica, "start_asgi_http_server", replica.start_asgi_http_server)
    monkeypatch.setenv(connections.HOST_VARIABLE, "127.0.0.2")
    assert connections.install() == []
    (port,) = free_ports(1)

    async def listens_on() -> str:
        options = HTTPOptions(host="127.0.0.1", port=port)  # Serve's own, and its proxies'
        task, served = await replica.start_asgi_http_server(
            application(), options, event_loop=asyncio.get_running_loop()
        )
        while not served.started:
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection("127.0.0.2", port)
        peer = writer.get_extra_info("peername")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        task.cancel()
        return str(peer[0])

    assert asyncio.run(listens_on()) == "127.0.0.2"
