"""Bad requests by the thousand: generated from the OpenAPI document, and random bytes."""

import json
import random
import socket
from urllib.parse import urlsplit

import openai
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.helpers.endpoints import start_server

# Pictures that are asked for by chance are small: the requests are the subject.
QUICK = ("limits.n=1", "limits.steps=2", "limits.pixels=4096", "limits.cases=1", "queue=64")
RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}
SHAPE = {"message", "type", "param", "code"}
PATHS = ("/", "/v1/models", "/v1/images/generations", "/v1/images/edits", "/v1/evaluations")


@pytest.fixture(scope="module")
def quick(base, served_store):
    server = start_server(
        base, served_store, *(word for one in QUICK for word in ("--serving", one))
    )
    yield server
    server.stop()


def still_serves(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token)
    drawn = client.images.generate(model="plain", prompt="A red circle", size="64x64")
    return len(drawn.data) == 1


def generated(server, examples):
    """Sends so many requests for each operation of the document, half of them meant to be wrong.

    Returns how many were sent. By `requests`: schemathesis's own transport does not get on with the
    urllib3 that grafana-client brings.
    """
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    session, sent = requests.Session(), 0
    for operation in document.get_all_operations():
        for mode in GenerationMode:
            strategy = operation.ok().as_strategy(generation_mode=mode)

            @given(case=strategy)
            @settings(max_examples=examples, database=None, **RELAXED)
            def ask(case):
                nonlocal sent
                words = case.as_transport_kwargs(base_url=server.url)
                words["headers"] = {**words["headers"], "Authorization": f"Bearer {server.token}"}
                answer = session.request(**words, timeout=60)
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400:
                    assert set(answer.json()) == {"error"}, answer.text
                    assert set(answer.json()["error"]) == SHAPE, answer.text
                    assert answer.headers["x-request-id"]
                sent += 1

            ask()
    return sent


def random_bytes(server, count):
    """Sends noise, after a request's first line or instead of it, and reads what comes back."""
    rng = random.Random(0)
    host, port = urlsplit(server.url).netloc.split(":")
    for number in range(count):
        noise = rng.randbytes(rng.randrange(1, 2000))
        head = f"POST {rng.choice(PATHS)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
        kind = rng.choice([b"application/json", b"multipart/form-data; boundary=x", b"?"])
        head += b"Authorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (
            server.token.encode(),
            kind,
            len(noise),
        )
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(noise if number % 4 == 0 else head + noise)
            connection.shutdown(socket.SHUT_WR)
            try:
                answer = connection.makefile("rb").read()
            except ConnectionResetError:
                continue  # what is no HTTP may be hung up on
            assert not answer.startswith(b"HTTP/1.1 5"), (noise, answer)
            if answer.startswith(b"HTTP/1.1 4"):
                body = answer.partition(b"\r\n\r\n")[2]
                assert set(json.loads(body)["error"]) == SHAPE, answer


@pytest.mark.slow
def test_some_bad_requests_break_nothing(quick):
    assert generated(quick, examples=4) > 50
    random_bytes(quick, 100)
    assert still_serves(quick)


@pytest.mark.slow
def test_ten_thousand_bad_requests_break_nothing(quick):
    sent = generated(quick, examples=400)
    random_bytes(quick, 2000)
    assert sent + 2000 >= 10_000
    assert still_serves(quick)
