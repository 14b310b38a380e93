"""What the tests on a local cluster share: the command, a time line of its nodes, jobs."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_ray.cluster.local.nodes import Cluster
from tests.helpers.commands import FLASH_RAY, RAY, user_environment

Nodes = dict[str, str]  # id -> type


class Timeline:
    """Waits for nodes, and prints how many of each type there are whenever that changes."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._start = time.monotonic()
        self._shown: Counter[str] | None = None

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:5.0f} s  {text}", flush=True)

    def until(self, good: Callable[[Nodes], bool]) -> Nodes:
        """The nodes, once they are as `good` says."""
        while True:
            nodes = self._cluster.nodes()
            if (now := Counter(nodes.values())) != self._shown:
                types = (f"{number} {kind}" for kind, number in sorted(now.items()))
                self.say(", ".join(types) or "no nodes")
                self._shown = now
            if good(nodes):
                return nodes
            time.sleep(0.5)


@contextmanager
def typed(*options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`flash-ray cluster local` of a user without a store, and its output until it was ready."""
    server = subprocess.Popen(
        [FLASH_RAY, "cluster", "local", *options],
        env=user_environment(Path.home(), **variables),
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            output = ""
            while not output.endswith("Ctrl-C ends it.\n"):
                line = server.stdout.readline()
                assert line, f"it ended: {output}"
                output += line
            yield server, output
        finally:
            server.terminate()


def submit(address: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` with a token, to a job server's address."""
    return subprocess.run(
        [RAY, "job", "submit", "--address", address, *words],
        env={**os.environ, "RAY_AUTH_MODE": "token", **variables},
        capture_output=True,
        text=True,
    )
