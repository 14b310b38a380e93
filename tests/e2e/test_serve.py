"""`flash-ray serve` as its users meet it: the official client, curl, load, deaths."""

import base64
import concurrent.futures
import http.client
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import openai
import psutil
import pytest
from PIL import Image

from flash_ray.serving.connections import HEADER_BYTES
from tests.helpers.endpoints import replicas

PROMPTS = [
    f"A {color} circle on a {ground} field"
    for color in ("red", "blue", "green")
    for ground in ("dark", "bright", "gray", "yellow")
]

STAGES = ("queue", "encode", "denoise", "decode")


@pytest.fixture
def client(served):
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token, max_retries=0)


def draw(client, prompt="A red circle", model="plain", seed=1):
    answer = client.images.generate(model=model, prompt=prompt, extra_body={"seed": seed})
    return pixels(answer.data[0].b64_json)


def pixels(b64_json):
    return np.asarray(Image.open(BytesIO(base64.b64decode(b64_json))))


def test_the_official_client_and_pictures_that_do_not_depend_on_the_load(client):
    assert {model.id for model in client.models.list()} >= {"teacher", "plain", "bold"}
    alone = [draw(client, prompt) for prompt in PROMPTS]
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: draw(client, prompt), PROMPTS))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_an_evaluation_runs_and_is_cancelled(served):
    asked = {"model": "plain", "task": "t2i", "cases": 1, "seed": 77}  # asked for by no other test
    status, view = served.call("POST", "/v1/evaluations", asked)
    assert status == 202
    assert served.settled(view["id"])["result"]["score"] >= 1
    status, again = served.call("POST", "/v1/evaluations", asked)
    assert (status, again["id"]) == (200, view["id"])

    long = served.call("POST", "/v1/evaluations", {"model": "teacher", "task": "edit", "cases": 16})
    name = long[1]["id"]
    assert served.call("DELETE", f"/v1/evaluations/{name}")[1]["status"] == "cancelled"
    assert served.settled(name)["status"] == "cancelled"


def test_a_client_that_hangs_up_frees_its_place(served, client):
    body = json.dumps({"model": "teacher", "prompt": "A red circle", "n": 8}).encode()
    lines = (
        "POST /v1/images/generations HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {served.token}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "\r\n",
    )
    head = "\r\n".join(lines).encode()
    sockets = []
    for _ in range(24):
        connection = socket.create_connection(urlsplit(served.url).netloc.split(":"))
        connection.sendall(head + body)
        sockets.append(connection)
    for connection in sockets:
        connection.close()
    # 24 x 8 teacher pictures would take many batches: one that is asked for now comes at once
    # only if they are gone. It is refused at most while they are being let go.
    for _ in range(100):
        try:
            draw(client)
            break
        except openai.RateLimitError as error:
            assert int(error.response.headers["retry-after"]) >= 1
            time.sleep(0.1)
    else:
        pytest.fail("the places of clients that hung up were not freed")


def spoken(served, words):
    """(status, JSON) of what the server says to bytes, before they are followed by others."""
    with socket.create_connection(urlsplit(served.url).netloc.split(":")) as connection:
        connection.sendall(words)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())


def test_strangers_are_answered_before_they_have_said_much(served):
    head = b"POST /v1/images/edits HTTP/1.1\r\nHost: x\r\nContent-Length: 76000000\r\n"
    status, body = spoken(served, head + b"\r\n")  # and no byte of the body
    assert (status, body["error"]["code"]) == (401, "no_token")
    endless = head + b"X: "
    endless += b"x" * (HEADER_BYTES + 1 - len(endless))  # and no end of the headers
    status, body = spoken(served, endless)
    assert status == 431 and set(body["error"]) == {"message", "type", "param", "code"}


def test_the_official_client_sees_a_picture_come(client):
    asked = {"model": "teacher", "prompt": "A red circle", "extra_body": {"seed": 1, "steps": 4}}
    events = list(client.images.generate(stream=True, partial_images=2, **asked))
    assert [event.type.partition(".")[2] for event in events] == [
        "partial_image",
        "partial_image",
        "completed",
    ]
    whole = client.images.generate(**asked)
    # To rounding: the second one finds its prompt's keys and values.
    shown, drawn = (pixels(one.b64_json).astype(int) for one in (events[-1], whole.data[0]))
    assert np.abs(shown - drawn).max() <= 1 and whole._request_id
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="nobody", prompt="A red circle", stream=True)
    link = client.images.generate(response_format="url", **asked).data[0].url
    assert urllib.request.urlopen(link).read() == base64.b64decode(whole.data[0].b64_json)


def test_an_alias_goes_over_under_load_without_a_failed_request(served, client, flash_ray):

    def alias(student):
        words = ("alias", "best", student, "--store", served.store.url)
        ended = flash_ray(*words, **served.store.variables)
        assert ended.returncode == 0, ended.stderr

    plain, bold = draw(client, model="plain"), draw(client, model="bold")
    alias("plain")
    seen, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            picture = draw(client, model="best")
            seen.append(min((plain, bold), key=lambda one: difference(one, picture)) is bold)
            assert min(difference(plain, picture), difference(bold, picture)) <= 1

    def difference(one, other):
        return np.abs(one.astype(int) - other.astype(int)).max()

    while served.call("GET", "/v1/models/best")[0] == 404:
        time.sleep(0.2)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask) for _ in range(4)]
        while not seen:
            time.sleep(0.1)
        alias("bold")
        while not all(seen[-8:]) and all(not one.done() for one in clients):
            time.sleep(0.1)
        stop.set()
        for one in clients:
            one.result()
    assert not seen[0] and seen[-1]


@pytest.mark.slow
def test_a_replica_that_dies_loses_no_evaluation(served, client):
    asked = {"model": "plain", "task": "edit", "cases": 4}
    name = served.call("POST", "/v1/evaluations", asked)[1]["id"]
    dying = replicas(served, "generate", "score")
    assert len(dying) == 2
    for process in dying:
        process.kill()
    assert served.settled(name)["status"] == "succeeded"
    while True:  # the replica comes back
        try:
            draw(client)
            break
        except openai.InternalServerError:
            time.sleep(0.5)


def family(served):
    """The server's processes, with the words that they were started with."""
    ours = {process.pid for process in psutil.Process(served.process.pid).children(recursive=True)}
    # One that ends meanwhile has no words, where psutil looks at all of them.
    return [process for process in psutil.process_iter(["cmdline"]) if process.pid in ours]


def scraped(served):
    """Everything that the server's Ray shows to Prometheus."""
    words = (word for process in family(served) for word in process.info["cmdline"] or ())
    session = next(word for word in words if word.startswith("--session-dir=")).partition("=")[2]
    found = json.loads((Path(session) / "prom_metrics_service_discovery.json").read_text())
    return "".join(map(page_of, found[0]["targets"]))


def page_of(target):
    """A target's page; "" of one that does not answer, as while Ray starts its agent again."""
    try:
        return urllib.request.urlopen(f"http://{target}/metrics").read().decode()
    except urllib.error.URLError:
        return ""


def test_metrics_tell_stages_batches_caches_and_errors(served, client):
    draw(client)
    draw(client)
    assert served.call("POST", "/v1/images/generations", {"model": "nobody"})[0] == 400
    wanted = {
        *(f'flash_serve_stage_seconds_count{{.*stage="{stage}"' for stage in STAGES),
        "flash_serve_batch_pictures_count",
        'flash_serve_cache_lookups_total{.*cache="prefix".*outcome="hit"',
        'flash_serve_cache_lookups_total{.*cache="condition".*outcome="miss"',
        'flash_serve_errors_total{.*route="/v1/images/generations".*status="400"',
        'flash_serve_request_seconds_count{.*route="/v1/images/generations"',
    }
    for _ in range(300):  # Ray exports every few seconds
        text = scraped(served)
        if not (missing := {one for one in wanted if not re.search(one, text)}):
            break
        time.sleep(1)
    assert not missing


def test_bad_input_is_one_line(flash_ray_forked, tmp_path):
    serve = ["serve", "miniature"]
    for words, says in (
        (["serve"], "Missing argument 'RECIPE'"),
        ([*serve, "--host", "0.0.0.0"], "--tokens"),
        ([*serve, "--store", "nowhere"], "--store: no store in nowhere"),
        # Loopback has more addresses than one: no tokens are asked for.
        ([*serve, "--host", "127.0.0.2", "--store", "nowhere"], "--store: no store in nowhere"),
        ([*serve, "--serving", "limits.m=4"], "limits.m: unknown key; did you mean limits.n?"),
        ([*serve, "--serving", "judges.mine=nowhere.yaml"], "judges:nowhere.yaml: No such file"),
        ([*serve, "--tokens", "nowhere.json"], "--tokens: nowhere.json"),
        ([*serve, "--set", "base=nowhere"], "base: no pipeline in nowhere"),
        ([*serve, "--set", "evaluation.benchmark=none"], "unknown benchmark 'none'"),
        (["token", "tokens.json", "a b"], "NAME: 'a b'"),
        (["token", "tokens.json", "me", "--role", "king"], "--role: 'king'"),
    ):
        ended = flash_ray_forked(*words)
        assert ended.returncode == 2, ended.stderr
        assert says in ended.stderr and ended.stderr.count("\n") == 1
