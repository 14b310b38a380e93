"""A running server and the commands meet objects in their store that nobody of theirs wrote."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_ray.storage.s3 import Store
from tests.e2e.conftest import Command
from tests.helpers.endpoints import Served, ServedStore, replicas

ODD = "eval-0123456789abcdef"


@pytest.fixture
def planted(served_store: ServedStore) -> Iterator[list[str]]:
    """Odd objects of every kind beside the good ones; the keys that are named."""
    store = Store.from_url(served_store.url)
    manifest = json.loads(store.get_bytes("students/plain/model.json") or b"")
    changes = {
        "recipe": {"recipe": {}},
        "when": {"created": "yesterday"},
        "path": {"files": {"../../x.json": {"bytes": 1, "sha256": "0" * 64}}},
        "noise": {"sigmas": [0.1, 0.5, 2.0], "nfe": 3},
        "zero": {"sigmas": [0.0], "nfe": 1},
        "other": {"name": "plain"},
    }
    objects = {
        f"students/{name}/model.json": json.dumps({**manifest, "name": name, **change})
        for name, change in changes.items()
    }
    objects |= {
        "students/text/model.json": "no JSON",
        "aliases/bad.json": "{",
        "aliases/<img src=x>.json": json.dumps({"student": "plain"}),
        "aliases/teacher.json": json.dumps({"student": "plain"}),
        f"evaluations/{ODD}/request.json": json.dumps({"model": {}}),
        "evaluations/odd/request.json": "{}",
    }
    for key, text in objects.items():
        store.put_bytes(key, text.encode())
    yield [key.replace("odd/request.json", "odd") for key in objects]  # the whole folder is odd
    for key in objects:
        store.delete(key)


def log_of(served: Served, deployment: str) -> str:
    """What its replica has written to the log of Ray Serve."""
    files = [file.path for one in replicas(served, deployment) for file in one.open_files()]
    logs = {Path(file) for file in files if "/serve/replica_" in file}
    return "".join(log.read_text() for log in logs)


def test_odd_objects_cost_nobody_anything_but_themselves(
    served: Served, flash_ray: Command, planted: list[str]
) -> None:
    before = {process.pid for process in replicas(served, "score")}
    assert before
    while f"{ODD}/request.json is corrupt (" not in log_of(served, "score"):
        time.sleep(0.5)  # until the scorer's health check, the first that reads the request
    status, models = served.call("GET", "/v1/models")
    assert status == 200
    names = {model["id"] for model in models["data"]}
    assert names >= {"teacher", "plain", "bold"}
    assert not names & {"recipe", "when", "path", "noise", "zero", "other", "text", "bad"}
    assert not any("<" in name for name in names)
    asked = {"model": "plain", "prompt": "A red circle"}
    status, drawn = served.call("POST", "/v1/images/generations", asked)
    assert status == 200 and len(drawn["data"]) == 1
    status, answer = served.call("POST", "/v1/images/generations", {**asked, "model": "noise"})
    assert status == 503 and "sigmas" in answer["error"]["message"], answer

    status, answer = served.call("GET", f"/v1/evaluations/{ODD}")
    assert status == 503 and "request.json is corrupt" in answer["error"]["message"]
    wanted = {"model": "plain", "task": "t2i", "cases": 1, "seed": 4711}
    status, view = served.call("POST", "/v1/evaluations", wanted)
    assert status == 202 and served.settled(view["id"])["status"] == "succeeded"
    (case, *_) = served.call("GET", "/v1/benchmarks/miniature/t2i/cases?per_category=1")[1]["data"]
    given = {"case": case["id"], "b64_json": drawn["data"][0]["b64_json"]}
    asked = {"benchmark": "miniature", "task": "t2i", **given}
    status, score = served.call("POST", "/v1/scores", asked)
    assert status == 200 and score["score"] >= 1
    status, listed = served.call("GET", "/v1/evaluations?limit=100")
    assert status == 200 and view["id"] in [one["id"] for one in listed["data"]]
    assert ODD not in [one["id"] for one in listed["data"]]
    assert {process.pid for process in replicas(served, "score")} == before

    said = log_of(served, "gateway")
    for key in planted:
        assert said.count(f"{key} is corrupt (") == 1, (key, said)
    options = ("--store", served.store.url)
    ended = flash_ray("models", *options, **served.store.variables)
    assert ended.returncode == 0, ended.stderr
    assert "plain" in ended.stdout and "bold" in ended.stdout
    for key in planted:
        if not key.startswith("evaluations"):
            assert f"{key} is corrupt (" in ended.stderr, key
    ended = flash_ray("evaluate", "when", "--task", "t2i", *options, **served.store.variables)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert "students/when/model.json is corrupt (created 'yesterday'" in ended.stderr
