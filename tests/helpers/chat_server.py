"""A stand-in for a model's server: speaks chat completions, and refuses requests that do not."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

KEY = "sk-test-0123456789"


@dataclass
class Asked:
    """One valid request: its text, joined, and its pictures."""

    model: str
    rubric: str
    text: str
    pictures: list[np.ndarray]
    fields: dict[str, Any]


@dataclass
class Answer:
    """What the server answers: a status with headers, or what the model says."""

    text: str | None = None
    refusal: str | None = None
    finish: str = "stop"
    tokens: int = 100
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


Script = Callable[[Asked, int], Answer]  # the request and its number, from 0


def good(score: int, reason: str = "as asked") -> Answer:
    return Answer(json.dumps({"score": score, "reason": reason}))


@dataclass
class ChatServer:
    """`base_url`, and in `asked` what came in that was valid."""

    base_url: str = ""
    script: Script = lambda asked, number: good(4)
    asked: list[Asked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def answer(self, path: str, key: str | None, body: bytes) -> Answer:
        if key != f"Bearer {KEY}":
            error = {"error": {"message": f"Incorrect API key provided: {key}", "code": "key"}}
            return Answer(status=401, body=json.dumps(error).encode())
        with self.lock:
            try:
                request = _checked(path, json.loads(body))
            except (AssertionError, KeyError, TypeError, ValueError) as problem:
                self.problems.append(repr(problem))
                return Answer(status=400, body=b'{"error": {"message": "invalid request"}}')
            number = len(self.asked)
            self.asked.append(request)
        return self.script(request, number)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = server.answer(self.path, self.headers["Authorization"], body)
            data = answer.body or json.dumps(_completion(answer)).encode()
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(BrokenPipeError):  # the client has given up
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.base_url = f"http://127.0.0.1:{httpd.server_port}/v1"
    thread = Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@contextmanager
def trusted_server(variable: str, script: Script | None = None) -> Iterator[ChatServer]:
    """A server for the block whose key is in the environment variable; every request was valid."""
    with pytest.MonkeyPatch.context() as patch, chat_server() as running:
        patch.setenv(variable, KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        running.script = script or running.script
        yield running
    assert running.problems == []


def _checked(path: str, body: dict[str, Any]) -> Asked:
    assert path == "/v1/chat/completions", path
    system, user = body["messages"]
    assert system["role"] == "system" and isinstance(system["content"], str), system["role"]
    assert user["role"] == "user", user["role"]
    texts, pictures = [], []
    for part in user["content"]:
        if part["type"] == "text":
            texts.append(part["text"])
            continue
        assert part["type"] == "image_url", part["type"]
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64", head
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        assert (image.format, image.mode) == ("PNG", "RGB"), (image.format, image.mode)
        pictures.append(np.asarray(image))
    assert texts
    fields = {name: body[name] for name in body.keys() - {"messages", "model"}}
    return Asked(body["model"], system["content"], "\n".join(texts), pictures, fields)


def _completion(answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        return {"error": {"message": "the model is overloaded", "code": "overloaded"}}
    message = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "stand-in",
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
        "usage": {
            "prompt_tokens": answer.tokens - 10,
            "completion_tokens": 10,
            "total_tokens": answer.tokens,
        },
    }
