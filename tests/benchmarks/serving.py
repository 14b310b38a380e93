"""`python -m tests.benchmarks.serving`: the endpoints against plain diffusers, on this machine.

Prints, from one run: pictures a second at 1, 4 and 16 clients and their ratio to a loop of plain
`QwenImage21Pipeline` calls of the same student, taken in turns; latencies; what happens at twice
the rate that the server can take; the first picture of a student that is in object storage only;
and a replica's memory while students come and go.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import requests
import torch
import typer
from diffusers import QwenImage21Pipeline, QwenImage21Transformer2DModel
from rich.console import Console
from rich.table import Table

from flash_ray.cluster.session import free_ports
from flash_ray.miniature.benchmark import draw_scene
from flash_ray.miniature.captions import caption
from flash_ray.miniature.processor import ImageTextProcessor  # noqa: F401  (diffusers loads by name)
from flash_ray.miniature.scenes import T2I_CATEGORIES
from flash_ray.models.loading import resolve_base
from flash_ray.recipe import load_recipe
from flash_ray.serving.settings import load_serving
from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import publish_student

STUDENT = "student"
ROUNDS = 4  # turns of plain and served at each number of clients


@dataclass
class Load:
    """What became of some requests: seconds of the answered, statuses of the others."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def add(self, other: "Load") -> None:
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.refused += other.refused

    def percentiles(self) -> list[float]:
        return [float(np.percentile(self.latencies, q)) for q in (50, 95, 99)]


def prompts() -> Iterator[str]:
    """Captions without end, hardly ever the same twice: no cache answers for the model."""
    rng = np.random.default_rng(0)
    while True:
        for category in T2I_CATEGORIES:
            yield caption(draw_scene(category, rng), rng)


class Client:
    """Asks the server; one prompt is used once."""

    def __init__(self, url: str):
        self._url = url
        self._prompts = prompts()
        self._lock = threading.Lock()
        self._own = threading.local()  # a connection for each thread, kept open as clients do

    def draw(self, model: str = STUDENT) -> tuple[int, float]:
        """(status, seconds) of one request."""
        with self._lock:
            prompt = next(self._prompts)
        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
        start = time.perf_counter()
        answer = self._own.session.post(
            f"{self._url}/v1/images/generations",
            json={"model": model, "prompt": prompt, "seed": 1},
            timeout=300,
        )
        answer.json()
        return answer.status_code, time.perf_counter() - start

    def closed(self, clients: int, seconds: float) -> Load:
        """Runs that many clients, each of which asks again as soon as it is answered."""
        load, start = Load(), time.perf_counter()

        def ask() -> None:
            while time.perf_counter() - start < seconds:
                self._count(load)

        with ThreadPoolExecutor(clients) as pool:
            for client in [pool.submit(ask) for _ in range(clients)]:
                client.result()
        load.seconds = time.perf_counter() - start
        return load

    def open(self, rate: float, seconds: float) -> Load:
        """Requests at a fixed rate, whether or not earlier ones are answered."""
        load, start = Load(), time.perf_counter()
        sent = int(rate * seconds)
        with ThreadPoolExecutor(sent) as pool:
            for number in range(sent):
                time.sleep(max(0.0, start + number / rate - time.perf_counter()))
                pool.submit(self._count, load)
        load.seconds = time.perf_counter() - start
        return load

    def _count(self, load: Load) -> None:
        status, seconds = self.draw()
        with self._lock:
            if status == 200:
                load.latencies.append(seconds)
            else:
                load.refused.append(status)


class Plain:
    """A loop of diffusers' own calls, with every core of the machine."""

    def __init__(self, folder: Path, sigmas: list[float], threads: int):
        torch.set_num_threads(threads)
        self._pipeline = QwenImage21Pipeline.from_pretrained(
            resolve_base("miniature"),
            transformer=QwenImage21Transformer2DModel.from_pretrained(folder),
            dtype=torch.float32,
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._sigmas, self._prompts = sigmas, prompts()

    def loop(self, seconds: float) -> Load:
        load, start = Load(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            begun = time.perf_counter()
            self._pipeline(
                next(self._prompts),
                height=64,
                width=64,
                sigmas=self._sigmas,
                true_cfg_scale=1.0,
                generator=torch.Generator().manual_seed(1),
            )
            load.latencies.append(time.perf_counter() - begun)
        load.seconds = time.perf_counter() - start
        return load


def main(
    seconds: Annotated[float, typer.Option(help="Of each turn.")] = 5.0,
    students: Annotated[int, typer.Option(help="That come and go, for the memory.")] = 53,
    serving: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="As of `flash-ray serve`.")
    ] = None,
) -> None:
    """Measure the endpoints against plain diffusers."""
    changes = serving or []
    settings = load_serving(None, changes)
    recipe = load_recipe("miniature")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as name:
        folder = Path(name)
        weights = Path(resolve_base("miniature")) / "transformer"
        with embedded_store(folder / "store") as store:
            names = [STUDENT, *(f"student-{number}" for number in range(students))]
            _publish(store, weights, names)
            with _server(folder, store, changes) as (url, pid):
                client = Client(url)
                plain = Plain(weights, recipe.student.rungs, os.cpu_count() or 1)
                console.print(
                    f"first picture of a student in object storage: {_first(client):.2f} s"
                )
                _speed(console, client, plain, seconds)
                _overload(console, client, 2 * settings.batch, 4 * seconds)
                _memory(console, client, names[1:], pid)


def _publish(store: Store, weights: Path, names: list[str]) -> None:
    recipe = load_recipe("miniature")
    for name in names:
        publish_student(store, name, weights, recipe)


@contextmanager
def _server(folder: Path, store: Store, changes: list[str]) -> Iterator[tuple[str, int]]:
    """`flash-ray serve` over the store: its URL and process id."""
    (port,) = free_ports(1)
    script = str(Path(sysconfig.get_path("scripts")) / "flash-ray")
    words = ["serve", "miniature", "--store", store.url(), "--port", str(port)]
    words += [word for change in changes for word in ("--serving", change)]
    process = subprocess.Popen(
        [script, *words],
        env={**os.environ, "FLASH_RAY_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            if process.poll() is not None:
                sys.exit("the server did not start")
            time.sleep(0.5)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def _first(client: Client) -> float:
    status, seconds = client.draw()
    if status != 200:
        sys.exit(f"the first picture failed with status {status}")
    return seconds


def _speed(console: Console, client: Client, plain: Plain, seconds: float) -> None:
    table = Table("clients", "pictures/s", "plain", "ratio", "p50 s", "p95 s", "p99 s")
    plain.loop(seconds)  # warm
    client.closed(1, seconds)
    for clients in (1, 4, 16):
        ours, theirs = Load(), Load()
        for _ in range(ROUNDS):
            theirs.add(plain.loop(seconds))
            ours.add(client.closed(clients, seconds))
        if ours.refused:
            sys.exit(f"{len(ours.refused)} requests failed: {ours.refused[:5]}")
        rates = [f"{ours.rate:.2f}", f"{theirs.rate:.2f}", f"{ours.rate / theirs.rate:.2f}"]
        table.add_row(str(clients), *rates, *(f"{value:.3f}" for value in ours.percentiles()))
    console.print(table)


def _overload(console: Console, client: Client, clients: int, seconds: float) -> None:
    capacity = client.closed(clients, seconds)
    rate = 2 * capacity.rate
    load = client.open(rate, seconds)
    busy = load.refused.count(429)
    sent = int(rate * seconds)
    p95, before = load.percentiles()[1], capacity.percentiles()[1]
    console.print(
        f"at {rate:.1f} requests/s, twice what {clients} clients get: {sent} sent, "
        f"{len(load.latencies)} answered, {busy} refused with 429, "
        f"{sent - len(load.latencies) - busy} otherwise; p95 {p95:.2f} s, at capacity "
        f"{before:.2f} s, ratio {p95 / before:.2f}"
    )


def _memory(console: Console, client: Client, names: list[str], pid: int) -> None:
    replica = _replica(pid)
    sizes, firsts = [], []
    for name in names:
        status, seconds = client.draw(name)
        if status != 200:
            sys.exit(f"{name} failed with status {status}")
        firsts.append(seconds)
        sizes.append(replica.memory_info().rss / 2**20)
    # The first few fill the replica; every later one evicts.
    early, late = np.mean(sizes[5:10]), np.mean(sizes[-5:])
    console.print(
        f"{len(names)} students one after another: first picture {np.median(firsts):.2f} s in the "
        f"median; the replica's memory {early:.0f} MiB after 5 to 10, {late:.0f} MiB after the last"
    )


def _replica(pid: int) -> psutil.Process:
    title = "ServeReplica:flash-ray:generate"
    family = psutil.Process(pid).children(recursive=True)
    return next(one for one in family if any(title in word for word in one.cmdline()))


if __name__ == "__main__":
    typer.run(main)
