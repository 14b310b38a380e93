"""The jobs as `ray job submit` runs them, against the job server of a local cluster."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import read_student
from tests.helpers.commands import RAY
from tests.helpers.job_server import JobServer, started

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A job server whose nodes have the store's credentials in their environment."""
    with (
        embedded_store(tmp_path_factory.mktemp("store")),
        started(tmp_path_factory.mktemp("cluster")) as running,
    ):
        yield running


def submit(server: JobServer, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [RAY, "job", "submit", "--address", server.address, "--working-dir", ".", "--"]
    return subprocess.run(
        [*words, *shlex.split(command), *more],
        cwd=REPOSITORY,
        env={**os.environ, **server.variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_encode_distil_and_evaluate_as_jobs(server, small, tmp_path):
    place = "s3://flash-ray/jobs"
    encode = f"python jobs/encode.py miniature --store {place}"
    ended = submit(server, encode, *small)
    assert re.search(r"16 cases; (\d+) of \1 shards encoded now", ended.stdout), ended.stdout
    ended = submit(server, encode, *small)
    assert re.search(r"16 cases; 0 of \d+ shards encoded now", ended.stdout), ended.stdout

    distill = "python jobs/distill.py miniature --name job --set runtime.storage.url=" + place
    ended = submit(server, distill, *small)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{place}/students/job" in ended.stdout
    assert read_student(Store.from_url(place), "job").nfe == 4

    file = tmp_path / "score.json"
    score = f"python jobs/evaluate.py job --task edit --cases 1 --store {place} --out {file}"
    ended = submit(server, score)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(file.read_text())["nfe"] == 4

    ended = submit(server, "python jobs/distill.py miniature", *small)
    assert ended.returncode != 0
    assert "runtime.storage.url: 'embedded' in a Ray cluster" in ended.stdout + ended.stderr


@pytest.mark.slow
def test_a_study_as_a_job(server, base, tmp_path):
    place = "s3://flash-ray/study"
    arms = {"half": {"tasks": {"t2i": 1, "edit": 1}}, "images": {"tasks": {"t2i": 1, "edit": 0}}}
    study = {
        "name": "small",
        "recipe": "miniature",
        "seeds": [0],
        "budget": {"iterations": 2},
        "cases": {"t2i": 1, "edit": 1},
        "arms": arms,
        "set": {
            "base": str(base),
            "data.num_cases": 8,
            "runtime.num_workers": 1,
            "runtime.micro_batch_size": 4,
            "runtime.checkpoint_every": 0,
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    words = f"{tmp_path / 'study.yaml'} --out {tmp_path / 'out'}"
    ended = submit(server, f"python jobs/study.py run {words} --store {place}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
    assert {json.loads(line)["trial"] for line in lines} == {"small-half-0", "small-images-0"}
    ended = submit(server, f"python jobs/study.py report {words}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "out" / "report" / "report.md").exists()
