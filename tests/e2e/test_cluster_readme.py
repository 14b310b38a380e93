"""cluster/README.md: its commands for one machine, run in order as they stand there."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from flash_ray.cluster.session import free_ports
from tests.helpers.autoscaling import typed
from tests.helpers.grafana_server import TOKEN, grafana

PAGE = (Path(__file__).parents[2] / "cluster/README.md").read_text()


def lines(heading: str) -> list[str]:
    """The commands of a section."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_a_local_cluster_and_its_jobs(flash_ray, small, base, home):
    start, export, *commands = lines("A local cluster that grows and shrinks")
    port, endpoints = map(str, free_ports(2))
    stands_for = {"8265": port, "HEAD": "127.0.0.1", "BUCKET": "flash-ray"}
    stands_for["qwen-image-2.1-full"] = "miniature"
    access = dict(word.split("=", 1) for word in shlex.split(export.replace("8265", port))[1:])
    short = {"distill": small, "evaluate": ["--cases", "1"]}
    short["serve"] = ["--port", endpoints, "--set", f"base={base}"]
    jobs: dict[str, str] = {}

    def run(line: str) -> subprocess.CompletedProcess[str]:
        for word, what in stands_for.items():
            line = line.replace(word, what)
        _, group, command, *rest = shlex.split(line)
        if group == "submit":  # what the page says outweighs what makes it short
            rest = [rest[0], *short[command], *rest[1:]]
        ended = flash_ray(group, command, *rest, **access)
        assert ended.returncode == 0, f"{line}: {ended.stdout}{ended.stderr}"
        if group == "submit":
            followed = re.search(r"submitted (\S+)", ended.stderr)
            jobs[command] = followed[1] if followed else ended.stdout.strip()
        return ended

    with typed(*shlex.split(start)[3:], "--port", port, HOME=str(home)) as (server, _):
        *others, listing = commands
        for line in others:
            run(line)
        listed = run(listing).stdout
        assert all(job in listed for job in jobs.values())
        served = f"http://127.0.0.1:{endpoints}/v1/models"
        while not _answers(served):
            assert "RUNNING" in flash_ray("jobs", "list", **access).stdout
            time.sleep(1)
        assert {"teacher", "miniature"} <= {m["id"] for m in requests.get(served).json()["data"]}
        serving = jobs["serve"]

        for line in lines("Submit and follow jobs"):
            job = serving if " stop " in line else jobs["distill"]
            ended = run(line.replace("JOB", job))
            if " logs " in line:
                assert "students/miniature" in ended.stdout
        assert not _answers(served)
    assert server.returncode == 143
    assert "miniature" in flash_ray("models").stdout  # in the embedded store


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=30).ok
    except requests.RequestException:
        return False


@pytest.mark.slow
def test_on_one_machine(flash_ray, small):
    (line,) = lines("On one machine")
    ended = flash_ray(*shlex.split(line)[1:], "--name", "alone", *small)
    assert ended.stdout == "s3://flash-ray/students/alone\n", ended.stderr


def test_what_size(flash_ray_forked):
    *plans, estimate, check, compare = lines("What size")
    assert check == "python -m tests.benchmarks.capacity"  # they are run by the next tests
    assert compare == "python -m tests.benchmarks.memory"
    codes = [flash_ray_forked(*shlex.split(plan)[1:]).returncode for plan in plans]
    assert codes == [0, 0, 0, 1]
    ended = flash_ray_forked(*shlex.split(estimate)[1:])
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (8|64|512) \|", line)]
    assert len(rows) > 10
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert re.search(r"\D+".join(map(re.escape, filter(None, cells))), ended.stdout), row


@pytest.mark.slow
def test_the_capacity_models_checks():
    *_, check, compare = lines("What size")
    for command, words in ((check, ("predicted", "measured")), (compare, ("planned", "ratio"))):
        ended = subprocess.run(
            [sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, check=True
        )
        assert all(word in ended.stdout for word in words)


def test_what_to_watch(flash_ray):
    (line,) = lines("What to watch")
    with grafana() as server:
        words = shlex.split(line.replace("https://grafana.example.org", server.url))
        ended = flash_ray(*words[1:], GRAFANA_TOKEN=TOKEN)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("would create: dashboard") == 5
