"""Bad requests by the thousand: generated from the OpenAPI document, and random bytes."""

import random
import re
import socket
import subprocess
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from endpoints import start_server

# Pictures that are asked for by chance are small: the requests are the subject.
QUICK = ("limits.n=1", "limits.steps=2", "limits.pixels=4096", "limits.cases=1", "queue=64")
PATHS = ("/", "/v1/models", "/v1/images/generations", "/v1/images/edits", "/v1/evaluations")


@pytest.fixture(scope="module")
def quick(base, place):
    server = start_server(base, place, *(word for one in QUICK for word in ("--serving", one)))
    yield server
    server.stop()


def still_serves(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token)
    drawn = client.images.generate(model="plain", prompt="A red circle", size="64x64")
    return len(drawn.data) == 1


def generated(server, tmp_path, examples):
    """(requests sent, schemathesis's output) of so many examples for each operation."""
    words = [
        Path(sysconfig.get_path("scripts")) / "schemathesis",
        *("run", f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {server.token}"),
        *("--checks", "not_a_server_error", "--phases", "fuzzing", "--mode", "all"),
        *("--max-examples", str(examples), "--workers", "4", "--request-timeout", "60"),
        *("--continue-on-failure", "--no-color"),
    ]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    found = re.search(r"([\d,]+) generated", ended.stdout)
    assert ended.returncode == 0 and found, ended.stdout + ended.stderr
    return int(found[1].replace(",", "")), ended.stdout


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
                answer = connection.recv(65536)
            except ConnectionResetError:
                continue  # what is no HTTP may be hung up on
            assert not answer.startswith(b"HTTP/1.1 5"), (noise, answer)


def test_some_bad_requests_break_nothing(quick, tmp_path):
    sent, _ = generated(quick, tmp_path, examples=5)
    assert sent > 50
    random_bytes(quick, 100)
    assert still_serves(quick)


@pytest.mark.slow
def test_ten_thousand_bad_requests_break_nothing(quick, tmp_path):
    sent, output = generated(quick, tmp_path, examples=800)
    random_bytes(quick, 2000)
    assert sent + 2000 >= 10_000, output
    assert still_serves(quick)
