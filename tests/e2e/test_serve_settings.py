"""What `flash-ray serve --serving` changes: no replica while nobody asks, and VLMs as judges."""

import time

import pytest

from tests.helpers.chat_server import good
from tests.helpers.endpoints import replicas, start_server

SETTINGS = ("generate.min=0", "edit.min=0", "generate.idle_s=2")


@pytest.fixture
def idle(base, served_store):
    """A server that keeps no replica while nobody asks."""
    started = start_server(base, served_store, *(w for one in SETTINGS for w in ("--serving", one)))
    yield started
    started.stop()


@pytest.mark.slow
def test_no_replica_draws_while_nobody_asks(idle):
    def drawn():
        body = {"model": "plain", "prompt": "A red circle", "seed": 1}
        status, answer = idle.call("POST", "/v1/images/generations", body)
        assert status == 200, answer
        return answer["data"][0]["b64_json"]

    assert replicas(idle, "generate", "edit") == []
    first = drawn()
    assert len(replicas(idle, "generate")) == 1
    while replicas(idle, "generate"):
        time.sleep(0.5)
    assert drawn() == first
    assert replicas(idle, "edit") == []


def test_a_vlm_of_the_operators_judges(served, vlm):
    first = len(vlm.asked)
    vlm.script = lambda asked, number: good(number - first + 1)
    asked = {"model": "plain", "task": "t2i", "cases": 1, "seed": 78, "judge": "seer"}
    status, view = served.call("POST", "/v1/evaluations", asked)
    assert (status, view["judge"]) == (202, "seer")
    ended = served.settled(view["id"])
    assert ended["status"] == "succeeded", ended
    assert ended["result"]["score"] == 2.0 and ended["result"]["measures"] == {}
    status, refused = served.call("POST", "/v1/evaluations", {**asked, "judge": "theirs"})
    assert status == 400 and "allowed: exact, ocr, seer" in refused["error"]["message"]
    assert vlm.problems == []
