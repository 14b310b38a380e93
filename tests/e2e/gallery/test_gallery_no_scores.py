"""The gallery of a server without a benchmark: nothing in the page or the API claims a score."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.endpoints import Served, ServedStore, start_server


@pytest.fixture(scope="module")
def bare(base: Path, served_store: ServedStore) -> Iterator[Served]:
    """Such a server; the students in its store have scores in their manifests."""
    server = start_server(base, served_store, "--serving", "benchmarks=[]")
    yield server
    server.stop()


@pytest.fixture
def served(bare: Served) -> Served:
    return bare


@pytest.mark.slow
def test_without_a_benchmark_models_are_compared_on_prompts_and_no_score_is_claimed(page):
    models = page.api("/v1/models")["data"]
    assert {"teacher", "plain", "bold"} <= {model["id"] for model in models}
    assert [model["scores"] for model in models] == [None] * len(models)
    assert page.api("/v1/benchmarks")["data"] == [] and page.api("/v1/me")["judges"] == []
    request = {"model": "plain", "task": "t2i", "cases": 1}
    status, answer = page.served.call("POST", "/v1/evaluations", request)
    assert status == 404 and "this server scores nothing" in answer["error"]["message"]

    page.sign_in()
    for part in ("[role=tablist]", "#evaluations", "#sources", "#from-benchmark"):
        assert not page.one(part).is_displayed()
    page.one("#prompts").send_keys("a night sky over snow")
    page.generate()
    assert page.one("#compare-status").text == "2 of 2 pictures drawn."
    assert len(page.all("#grid td img")) == 2
    for summary in page.all("#grid summary"):
        summary.click()
    text = page.one("body").text.lower()
    assert "median" in text and "seed" in text
    for claim in ("score", "judge", "mean ", "benchmark", "evaluat", "compliance"):
        assert claim not in text.replace("4 evaluations", "").replace("80 evaluations", ""), claim
    assert not any("/v1/evaluations" in path for path in page.requested())
