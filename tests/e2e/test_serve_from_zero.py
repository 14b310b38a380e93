"""Endpoints as a job on a cluster without nodes: one comes when somebody asks, and goes again."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from flash_ray.cluster.local.config import NodeLimits
from flash_ray.cluster.local.nodes import autoscaling_cluster
from flash_ray.cluster.session import free_ports
from flash_ray.serving.tokens import add_token
from tests.helpers.autoscaling import Timeline, submit

REPOSITORY = Path(__file__).parents[2]
SETTINGS = ("generate.min=0", "edit.min=0", "generate.idle_s=5")


@pytest.fixture
def cluster(served_store, tmp_path):
    """Its nodes inherit the variables of the store `served_store`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path / "cache"))
        with autoscaling_cluster(NodeLimits(idle_s=5), free_ports(1)[0]) as started:
            yield started


@pytest.mark.slow
def test_a_node_comes_to_draw_and_goes(cluster, base, served_store, tmp_path):
    timeline = Timeline(cluster)
    (port,) = free_ports(1)
    token = add_token(tmp_path / "tokens.json", "me", "generate")
    words = ["miniature", "--set", f"base={base}", "--store", served_store.url, "--port", str(port)]
    words += ["--tokens", str(tmp_path / "tokens.json")]
    words += [word for one in SETTINGS for word in ("--serving", one)]
    job = ["--no-wait", "--working-dir", str(REPOSITORY), "--", "python", "jobs/serve.py", *words]
    ended = submit(cluster.jobs_url, *job, **cluster.environment())
    assert ended.returncode == 0, ended.stdout + ended.stderr

    url = f"http://127.0.0.1:{port}"
    while not answers(url):
        time.sleep(0.5)
    timeline.say("the gateway answers")
    assert timeline.until(lambda nodes: True) == {}
    assert draw(url, token) == 1
    timeline.say("a picture is drawn")
    assert set(timeline.until(lambda nodes: True).values()) == {"server"}
    timeline.until(lambda nodes: not nodes)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def draw(url: str, token: str) -> int:
    """How many pictures the answer has."""
    body = json.dumps({"model": "plain", "prompt": "A red circle", "seed": 1}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/images/generations", body, headers)
    with urllib.request.urlopen(request) as answer:
        return len(json.load(answer)["data"])
