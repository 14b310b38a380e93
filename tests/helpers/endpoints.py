"""Starts the server that the tests of the endpoints and of the gallery ask."""

import http.client
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from flash_ray.cluster.session import free_ports
from flash_ray.recipe import load_recipe
from flash_ray.serving.tokens import ROLES, Role, add_token
from flash_ray.storage.embedded import embedded_store
from tests.helpers.commands import FLASH_RAY, user_environment
from tests.helpers.small import publish


@dataclass(frozen=True)
class ServedStore:
    """A store and the AWS_* variables to reach it, and a folder for what the tests leave."""

    folder: Path
    url: str
    variables: dict[str, str]


@dataclass
class Served:
    """A server that was started with `flash-ray serve`, and a token for each role."""

    url: str
    tokens: dict[Role, str]
    store: ServedStore
    process: subprocess.Popen[bytes]

    @property
    def token(self) -> str:
        """One that may do everything."""
        return self.tokens["admin"]

    def stop(self) -> None:
        """Ends it as Ctrl-C does, and waits for that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, JSON) of a request with the token."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def settled(self, name: str) -> Any:
        """The evaluation once it has ended."""
        while (view := self.call("GET", f"/v1/evaluations/{name}")[1])["status"] in (
            "queued",
            "running",
        ):
            time.sleep(0.5)
        return view


def replicas(served: Served, *deployments: str) -> list[psutil.Process]:
    """The server's processes of these deployments."""
    titles = [f"ServeReplica:flash-ray:{name}" for name in deployments]
    family = psutil.Process(served.process.pid).children(recursive=True)
    return [p for p in family if any(title in _title(p) for title in titles)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has just ended
        return ""


@contextmanager
def store_with_students(base: Path, folder: Path) -> Iterator[ServedStore]:
    """A store that several commands use at once, with the students `plain` and `bold`."""
    recipe = load_recipe("miniature", [f"base={base}"])
    with embedded_store(folder / "store") as store:
        publish(store, recipe, "plain", folder / "plain")
        publish(store, recipe, "bold", folder / "bold", scale=1.5)
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3")
        yield ServedStore(folder, store.url(), {name: os.environ[name] for name in names})


def start_server(base: Path, store: ServedStore, *options: str) -> Served:
    """Starts `flash-ray serve miniature` over a store and waits until it answers."""
    return start_serving(store, "miniature", "--set", f"base={base}", *options)


def start_serving(store: ServedStore, recipe: str, *options: str) -> Served:
    """Starts `flash-ray serve` over a store, in its folder, and waits until it answers."""
    file = store.folder / f"tokens-{time.monotonic_ns()}.json"
    tokens = {role: add_token(file, role, role) for role in ROLES}
    (port,) = free_ports(1)
    words = ["serve", recipe, "--store", store.url, "--port", str(port)]
    environment = user_environment(
        store.folder, FLASH_RAY_CACHE=str(store.folder / "cache"), **store.variables
    )
    with (store.folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [FLASH_RAY, *words, "--tokens", file, *options],
            cwd=store.folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    while not _answers(url):
        assert process.poll() is None, (store.folder / "log").read_text()
        time.sleep(0.5)
    return Served(url, tokens, store, process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
