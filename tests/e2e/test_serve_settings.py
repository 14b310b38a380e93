"""What `flash-ray serve --serving` changes: no replica while nobody asks, and VLMs as judges."""

import time

import pytest

from tests.helpers.chat_server import KEY, chat_server, good
from tests.helpers.endpoints import replicas, start_server

SETTINGS = ("generate.min=0", "edit.min=0", "generate.idle_s=2")


@pytest.fixture(scope="module")
def chat():
    with chat_server() as running:
        yield running
    assert running.problems == []


@pytest.fixture(scope="module")
def server(base, served_store, chat):
    (served_store.folder / "seer.yaml").write_text(
        f"base_url: {chat.base_url}\nmodel: seer\nkey_variable: JUDGE_KEY\nmax_requests: 9\n"
    )
    words = [*SETTINGS, f"judges.mine={served_store.folder / 'seer.yaml'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_KEY", KEY)
        started = start_server(
            base, served_store, *(w for one in words for w in ("--serving", one))
        )
    yield started
    started.stop()


@pytest.mark.slow
def test_no_replica_draws_while_nobody_asks(server):
    def drawn():
        body = {"model": "plain", "prompt": "A red circle", "seed": 1}
        status, answer = server.call("POST", "/v1/images/generations", body)
        assert status == 200, answer
        return answer["data"][0]["b64_json"]

    assert replicas(server, "generate", "edit") == []
    first = drawn()
    assert len(replicas(server, "generate")) == 1
    while replicas(server, "generate"):
        time.sleep(0.5)
    assert drawn() == first
    assert replicas(server, "edit") == []


def test_a_vlm_of_the_operators_judges(server, chat):
    chat.script = lambda asked, number: good(number + 1)
    asked = {"model": "plain", "task": "t2i", "cases": 1, "judge": "mine"}
    status, view = server.call("POST", "/v1/evaluations", asked)
    assert (status, view["judge"]) == (202, "mine")
    ended = server.settled(view["id"])
    assert ended["status"] == "succeeded", ended
    assert ended["result"]["score"] == 2.0 and ended["result"]["measures"] == {}
    status, refused = server.call("POST", "/v1/evaluations", {**asked, "judge": "theirs"})
    assert status == 400 and "allowed: exact, ocr, mine" in refused["error"]["message"]
