"""`flash-ray cluster local`: nodes come and go with the work, and its end leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flash_ray.local_cluster.cluster import Cluster, autoscaling_cluster, free_ports
from flash_ray.local_cluster.plan import Plan

SCRIPTS = Path(sysconfig.get_path("scripts"))

# Holds two trainers until its input ends.
HOLD = """
import sys, ray
from ray.util.placement_group import placement_group
ray.init(log_to_driver=False, logging_level="ERROR")
group = placement_group([{"trainer": 1, "CPU": 1}] * 2)
ray.get(group.ready())
print("held", flush=True)
sys.stdin.read()
"""

TEACH = """
import os, ray
ray.init()
@ray.remote(resources={"teacher": 1})
def teach():
    return os.environ["STORE"]
print("taught with", ray.get(teach.remote()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with autoscaling_cluster(Plan(trainers=2, teachers=1, idle_s=5), free_ports(1)[0]) as started:
        yield started


@pytest.fixture
def until(cluster: Cluster) -> Callable[[Callable[[dict[str, str]], bool]], dict[str, str]]:
    """Waits until the cluster's nodes are as a function says, and prints them as they change."""
    start, said = time.monotonic(), None

    def wait(good: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        nonlocal said
        while True:
            nodes = cluster.nodes()
            if (now := Counter(nodes.values())) != said:
                print(f"{time.monotonic() - start:5.0f} s  {dict(now) or 'no nodes'}", flush=True)
                said = now
            if good(nodes):
                return nodes
            time.sleep(0.5)

    return wait


@contextmanager
def holding(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, **cluster.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        yield holder
        holder.stdin.close()
    assert holder.returncode == 0


@pytest.mark.slow
def test_nodes_come_are_replaced_and_go(cluster, until):
    assert until(lambda nodes: True) == {}
    with holding(cluster) as holder:
        nodes = until(lambda nodes: len(nodes) == 2)
        assert set(nodes.values()) == {"trainer"}
        assert holder.stdout.readline() == b"held\n"
        lost = min(nodes)
        cluster.kill(lost)
        nodes = until(lambda nodes: lost not in nodes and len(nodes) == 2)
        assert set(nodes.values()) == {"trainer"}
    until(lambda nodes: not nodes)
    with pytest.raises(LookupError):
        cluster.kill(lost)


@contextmanager
def typed(*options: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`flash-ray cluster local` as a user types it, and what it said when it was ready."""
    words = [SCRIPTS / "flash-ray", "cluster", "local", *options]
    environment = {**os.environ, **variables}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    with server:
        try:
            said = ""
            while not said.endswith("Ctrl-C ends it.\n"):
                line = server.stdout.readline()
                assert line, f"it ended: {said}"
                said += line
            yield server, said
        finally:
            server.terminate()


def submit(port: int, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "ray", "job", "submit", "--address", f"http://127.0.0.1:{port}", *words]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_the_command_runs_jobs_and_leaves_nothing_but_logs(cluster, tmp_path):
    (port,) = free_ports(1)
    token = tmp_path / "token"
    own = {"RAY_AUTH_TOKEN_PATH": str(token)}
    with typed("--port", str(port), "--idle-s", "5", STORE="s3", **own) as (server, said):
        assert f"jobs and dashboard: http://127.0.0.1:{port}\n" in said
        assert f"token: {token}\n" in said
        assert token.stat().st_mode & 0o777 == 0o600

        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "teach.py").write_text(TEACH)
        job = ["--working-dir", str(tmp_path / "job"), "--", "python", "teach.py"]
        ended = submit(port, *job, **own)
        assert "taught with s3" in ended.stdout, ended.stdout + ended.stderr
        assert ended.returncode == 0
        assert submit(port, *job, RAY_AUTH_TOKEN="wrong").returncode != 0

        submit(port, "--no-wait", "--", "sleep", "3600", **own)
        while "sleep" not in [process.name() for process in descendants(server)]:
            time.sleep(0.5)
        family = descendants(server)
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    folder = Path(re.search(r"logs: (\S+)/session_latest/logs", said)[1])
    assert {path.name for path in folder.iterdir()} == {"logs", "head.log"}
    assert cluster.nodes() == {}  # the other cluster still answers


def test_a_port_that_is_taken_is_refused(flash_ray, cluster):
    port = cluster.jobs_url.rpartition(":")[2]
    ended = flash_ray("cluster", "local", "--port", port)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"flash-ray: --port: 127.0.0.1:{port}: Address already in use; choose another\n"
    )
