"""Strangers and bombs: a server goes on for those that have a token."""

import openai
import pytest
import requests

from tests.helpers.attackers import Memory, SlowStrangers, latencies, throw_bombs
from tests.helpers.endpoints import replicas

MIB = 2**20


@pytest.mark.slow
def test_two_thousand_slow_strangers_keep_nobody_out(served):
    strangers = SlowStrangers(served.url, 2000)
    with strangers.attacking():
        assert len(latencies(served.url, served.token, 30)) > 20
        assert strangers.ended > 1000  # they are hung up on
        assert requests.get(f"{served.url}/healthz", timeout=60).status_code == 200
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.token)
        assert client.images.generate(model="plain", prompt="A red circle").data


@pytest.mark.slow
def test_an_attack_of_bombs_is_bounded(served):
    (gateway,) = replicas(served, "gateway")
    memory = Memory(gateway)
    with memory.watched():
        answers = throw_bombs(served.url, served.token, at_once=12)
    assert set(answers) <= {200, 429}, answers
    # A picture's bytes as they are decoded and turned, and the bodies of those that wait.
    assert memory.most - memory.before < 600 * MIB
