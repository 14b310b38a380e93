"""`flash-ray cluster local`: nodes come and go with the work, and its end leaves nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.cluster.local.nodes import Cluster, autoscaling_cluster
from flash_ray.cluster.session import free_ports
from tests.helpers.autoscaling import Timeline, submit, typed

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

# What an autoscaler can bring, for each list of places.
ASK = """
import json, sys, ray
from flash_ray.cluster.resources import can_provision
ray.init(log_to_driver=False, logging_level="ERROR")
print(*(can_provision(places) for places in json.loads(sys.argv[1])))
"""

TEACH = """
import os, ray
ray.init()
@ray.remote(resources={"teacher": 1})
def teach():
    return os.environ["AWS_ENDPOINT_URL_S3"]
print("taught with", ray.get(teach.remote()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with autoscaling_cluster(
        NodeLimits(trainers=2, teachers=1, idle_s=5), free_ports(1)[0]
    ) as started:
        yield started


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
def test_nodes_come_are_replaced_and_go(cluster):
    timeline = Timeline(cluster)
    until = timeline.until
    assert until(lambda nodes: True) == {}
    with holding(cluster) as holder:
        nodes = until(lambda nodes: len(nodes) == 2)
        assert set(nodes.values()) == {"trainer"}
        assert holder.stdout.readline() == b"held\n"
        lost = min(nodes)
        timeline.say("a node is killed")
        cluster.kill(lost)
        nodes = until(lambda nodes: lost not in nodes and len(nodes) == 2)
        assert set(nodes.values()) == {"trainer"}
    timeline.say("the work ends")
    until(lambda nodes: not nodes)
    with pytest.raises(LookupError):
        cluster.kill(lost)


@pytest.mark.slow
def test_the_autoscaler_says_what_it_can_bring(cluster):
    trainer, teacher = {"trainer": 1, "CPU": 1}, {"teacher": 1}
    asked = [[trainer] * 3, [trainer, trainer, teacher], [trainer] * 3, [{"GPU": 1}]]
    ended = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(asked)],
        env={**os.environ, **cluster.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ended.stdout == "False True False False\n"


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
def test_the_command_runs_jobs_and_leaves_nothing_but_logs(cluster, tmp_path):
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    token = tmp_path / "token"
    own = {"RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(tmp_path)}
    with typed("--port", str(port), "--idle-s", "5", **own) as (server, said):
        assert f"jobs and dashboard: {address}\n" in said
        assert "store: s3://flash-ray, in ~/.flash_ray/store\n" in said
        assert f"token: {token}\n" in said
        assert token.stat().st_mode & 0o777 == 0o600

        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "teach.py").write_text(TEACH)
        job = ["--working-dir", str(tmp_path / "job"), "--", "python", "teach.py"]
        ended = submit(address, *job, **own)
        assert "taught with http://127.0.0.1:" in ended.stdout, ended.stdout + ended.stderr
        assert ended.returncode == 0
        assert submit(address, *job, RAY_AUTH_TOKEN="wrong").returncode != 0

        submit(address, "--no-wait", "--", "sleep", "3600", **own)
        while "sleep" not in [process.name() for process in descendants(server)]:
            time.sleep(0.5)
        family = descendants(server)
        server.send_signal(signal.SIGINT)
        assert server.wait() == 130
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    folder = Path(re.search(r"logs: (\S+)/r/session_latest/logs", said)[1])
    assert {path.name for path in folder.iterdir()} == {"logs", "head.log"}
    assert cluster.nodes() == {}  # the other cluster still answers


def test_bad_input_is_one_line(flash_ray_forked):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        taken = flash_ray_forked("cluster", "local", "--port", str(port))
    assert (taken.returncode, taken.stderr) == (
        2,
        f"flash-ray: --port: 127.0.0.1:{port}: Address already in use; choose another\n",
    )
    for words, said in (
        (["--trainers", "65"], "Invalid value for '--trainers'"),
        (["--idle-s", "0"], "Invalid value for '--idle-s'"),
        (["--object-store-mib", "1000000"], "--object-store-mib: 5 nodes with 1000000 MiB need"),
    ):
        ended = flash_ray_forked("cluster", "local", "--port", str(port), *words)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"flash-ray: {said}") and ended.stderr.count("\n") == 1
