"""`flash-ray submit` and `flash-ray jobs` against a real job server that asks for a token."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import read_student
from tests.helpers.commands import FLASH_RAY, RAY, user_environment
from tests.helpers.job_server import TOKEN, started

REPOSITORY = Path(__file__).parents[2]
PLACE = "s3://flash-ray/submitted"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The nodes have the store's credentials in their environment."""
    with embedded_store(tmp_path_factory.mktemp("store")):
        with started(tmp_path_factory.mktemp("cluster")) as server:
            yield server


@pytest.fixture
def on_cluster(flash_ray, server):
    """Runs the command with the server's address and token, and without any AWS_* of its own."""

    def run(*words):
        return flash_ray(*words, "--address", server.address, **server.variables)

    return run


@pytest.fixture(scope="module")
def encode(small):
    return ("submit", "encode", "miniature", "--store", PLACE, *small, "--follow")


@pytest.fixture
def encoded(on_cluster, encode):
    """The name of a job that has encoded."""
    ended = on_cluster(*encode)
    if ended.returncode == 2:  # another test has sent it
        return re.search(r"(encode-miniature-[0-9a-f]{8}) has ended", ended.stderr)[1]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"16 cases; (\d+) of \1 shards encoded now", ended.stdout)
    return re.search(r"submitted (encode-miniature-[0-9a-f]{8})\n", ended.stderr)[1]


@pytest.mark.slow
def test_what_has_been_encoded_is_not_encoded_again(on_cluster, encode, encoded):
    ended = on_cluster(*encode, "--again")
    assert ended.returncode == 0
    assert f"submitted {encoded}-2" in ended.stderr
    assert re.search(r"16 cases; 0 of \d+ shards encoded now", ended.stdout)
    listed = on_cluster("jobs", "list").stdout
    assert listed.count("SUCCEEDED") >= 2 and f"{encoded}-2" in listed


def test_encode_is_followed_listed_and_not_sent_twice(on_cluster, server, encode, encoded):
    name = encoded
    ended = on_cluster(*encode)
    assert ended.returncode == 2
    assert f"{name} has ended (SUCCEEDED)" in ended.stderr and "--again" in ended.stderr

    assert "16 cases" in on_cluster("jobs", "logs", name).stdout
    assert on_cluster("jobs", "wait", name).stdout == f"{name} SUCCEEDED\n"
    assert name in on_cluster("jobs", "list").stdout
    shown = requests.get(
        f"{server.address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}
    ).text
    assert name in shown
    for secret in (TOKEN, os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
        assert secret not in shown


def test_a_running_job_is_left_and_stopped(on_cluster, server, home, small):
    settings = ("--set", f"runtime.storage.url={PLACE}", "--set", "training.iterations=100000")
    words = ("submit", "distill", "miniature", "--name", "long", *small, *settings)
    process = subprocess.Popen(
        [FLASH_RAY, *words, "--follow", "--address", server.address],
        env=user_environment(home, **server.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any("Running entrypoint for job distill-long-" in line for line in process.stdout)
    ended = on_cluster(*words)
    assert ended.returncode == 2
    name = re.search(r"job: (distill-long-[0-9a-f]{8}) runs already", ended.stderr)[1]

    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert f"detached from {name}" in said and f"flash-ray jobs logs {name} --follow" in said

    ended = on_cluster("jobs", "stop", name)
    assert (ended.returncode, ended.stdout) == (0, f"{name} STOPPED\n")
    ended = on_cluster("jobs", "wait", name)
    assert ended.returncode == 1
    assert f"{name}: STOPPED" in ended.stderr


def test_rays_own_command_runs_the_same(server, small):
    settings = ("data", "encode", "miniature", "--store", PLACE, *small)
    ended = subprocess.run(
        [RAY, "job", "submit", "--address", server.address, "--working-dir", "."]
        + ["--", "python", "-m", "flash_ray", *settings],
        cwd=REPOSITORY,
        env={**os.environ, **server.variables},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"16 cases; \d+ of \d+ shards encoded now", ended.stdout)


@pytest.mark.slow
def test_a_study_runs_to_its_end(on_cluster, base, tmp_path):
    study = {
        "name": "sent",
        "recipe": "miniature",
        "seeds": [0],
        "budget": {"iterations": 2},
        "cases": {"t2i": 1},
        "arms": {"half": {}, "edits": {"tasks": {"t2i": 1, "edit": 3}}},
        "set": {
            "base": str(base),
            "data.num_cases": 8,
            "runtime.num_workers": 1,
            "runtime.micro_batch_size": 4,
            "evaluation.every": 0,
        },
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    out = tmp_path / "out"
    words = ("submit", "study", "study.yaml", "--out", str(out), "--store", PLACE, "--follow")
    ended = on_cluster(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len((out / "trials.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_distil_and_evaluate(on_cluster, small):
    storage = ("--set", f"runtime.storage.url={PLACE}")
    words = ("submit", "distill", "miniature", "--name", "sent", *storage, *small, "--follow")
    ended = on_cluster(*words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{PLACE}/students/sent" in ended.stdout
    assert read_student(Store.from_url(PLACE), "sent").nfe == 4
    ended = on_cluster(*words, "--again")
    assert ended.returncode == 2
    assert "--name: student 'sent' exists" in ended.stdout

    words = ("submit", "evaluate", "sent", "--task", "edit", "--recipe", "miniature")
    words += ("--cases", "1", "--store", PLACE)
    ended = on_cluster(*words, "--follow")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "compliance" in ended.stdout
