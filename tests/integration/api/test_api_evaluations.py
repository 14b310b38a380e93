"""Benchmarks, single scores and evaluations by the API."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.scenes import CATEGORIES
from flash_ray.recipe.schema import Evaluation
from flash_ray.serving.images import png
from flash_ray.serving.settings import load_serving
from tests.helpers.serving import (
    BENCHMARK,
    SETTINGS,
    b64,
    client_of,
    draw,
    error,
    in_process,
    pixels,
    write_signs,
)


def test_cases_and_single_scores(client):
    (benchmark,) = client.get("/v1/benchmarks").json()["data"]
    assert benchmark == {
        "id": "miniature",
        "tasks": {task: list(names) for task, names in CATEGORIES.items()},
        "judges": {"t2i": ["exact", "ocr"], "edit": ["exact", "ocr"]},
        "digest": MiniatureBenchmark().digest,
    }
    edits, t2i = f"{BENCHMARK}/edit/cases", f"{BENCHMARK}/t2i/cases"
    cases = client.get(f"{edits}?per_category=2").json()["data"]
    assert len(cases) == 12 and {case["size"] for case in cases} == {"64x64"}
    (path,) = cases[0]["references"]
    source = client.get(path)
    assert source.headers["content-type"] == "image/png"
    body = {"benchmark": "miniature", "task": "edit", "case": cases[0]["id"]}
    body["b64_json"] = b64(source.content)
    untouched = client.post("/v1/scores", json=body).json()
    assert 1 <= untouched["score"] <= 2.5 and untouched["details"]["cap"]
    assert set(untouched["measures"]) == {"compliance", "quality"}
    assert untouched["details"]["attributes"] and untouched["failure"] is None
    error(client.post("/v1/scores", json={**body, "case": "scene-999"}), 404, "case")
    error(client.post("/v1/scores", json={**body, "benchmark": "x"}), 404, "benchmark", "miniature")
    error(client.post("/v1/scores", json={**body, "task": "x"}), 400, "task")
    error(client.post("/v1/scores", json={**body, "b64_json": "?"}), 400, "b64_json")
    large = b64(png(np.zeros((96, 96, 3), np.uint8)))
    error(client.post("/v1/scores", json={**body, "b64_json": large}), 400, "b64_json", "64x64")
    assert client.get(t2i).json()["data"][0]["references"] == []
    error(client.get(f"{t2i}/text-000/input.png"), 404, "case")
    error(client.get(f"{edits}/scene-002/input.png"), 404, "case")
    error(client.get(f"{path}?number=2"), 404, "case", "has 1 pictures")
    error(client.get(f"{edits}?per_category=3"), 400, "per_category", "at most 2")
    error(client.get("/v1/benchmarks/x/t2i/cases"), 404, "benchmark", "'x'", "miniature")
    error(client.get(f"{BENCHMARK}/x/cases"), 400, "task")


def test_without_a_benchmark_nothing_is_scored_and_nothing_claims_a_score(recipe, store):
    settings = SETTINGS.model_copy(update={"benchmarks": ()})
    with client_of(in_process(recipe, store, settings)) as client:
        assert client.get("/v1/benchmarks").json()["data"] == []
        assert client.get("/v1/me").json()["judges"] == []
        models = client.get("/v1/models").json()["data"]
        assert {"plain", "teacher"} <= {model["id"] for model in models}
        assert [model["scores"] for model in models] == [None] * len(models)
        asked = {"model": "plain", "task": "t2i", "cases": 1}
        wanted = (404, "benchmark", "this server scores nothing")
        error(client.post("/v1/evaluations", json=asked), *wanted)
        error(client.post("/v1/evaluations", json={**asked, "benchmark": "miniature"}), *wanted)
        scored = {"benchmark": "miniature", "task": "t2i", "case": "text-000", "b64_json": "x"}
        error(client.post("/v1/scores", json=scored), *wanted)
        error(client.get(f"{BENCHMARK}/t2i/cases"), *wanted)
        assert draw(client).status_code == 200


def test_a_recipe_without_a_benchmark_is_scored_on_what_its_students_were(recipe, store):
    bare = recipe.model_copy(update={"evaluation": Evaluation()})
    with client_of(in_process(bare, store, SETTINGS)) as client:
        (benchmark,) = client.get("/v1/benchmarks").json()["data"]
        assert benchmark["id"] == "miniature" and benchmark["judges"]["t2i"][0] == "exact"
        models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        assert models["plain"]["scores"]["judge"] == "exact"


def test_evaluations_are_run_once_kept_and_listed(client, store):
    asked = {"model": "plain", "task": "edit", "cases": 1, "seed": 7}
    first = client.post("/v1/evaluations", json=asked)
    assert first.status_code == 202
    found = client.get(f"/v1/evaluations/{first.json()['id']}").json()
    assert found["status"] == "succeeded" and found["progress"] == {"done": 6, "total": 6}
    assert (found["benchmark"], found["task"], found["judge"]) == ("miniature", "edit", "exact")
    result = found["result"]
    assert result["counted"] == 6 and set(result["measures"]) == {"compliance", "quality"}
    assert set(result["categories"]) == {answer["category"] for answer in result["answers"]}
    mean = np.mean([answer["score"] for answer in result["answers"]])
    assert result["score"] == pytest.approx(mean)
    assert all(client.get(*answer["references"]).is_success for answer in result["answers"])
    picture = client.get(result["answers"][0]["picture"])
    assert Image.open(BytesIO(picture.content)).size == (64, 64)

    again = client.post("/v1/evaluations", json=asked)
    assert again.status_code == 200 and again.json()["id"] == first.json()["id"]
    other = client.post("/v1/evaluations", json={**asked, "model": "bold"})
    assert other.json()["id"] != first.json()["id"]
    listed = client.get("/v1/evaluations").json()["data"]
    assert {item["id"] for item in listed} == {first.json()["id"], other.json()["id"]}
    assert all(item["result"] is None for item in listed)

    ended = client.delete(f"/v1/evaluations/{first.json()['id']}").json()
    assert ended["status"] == "succeeded"
    error(client.get("/v1/evaluations/eval-0"), 404, "id")
    error(client.get("/v1/evaluations/a%20b"), 404, None)
    error(client.post("/v1/evaluations", json={**asked, "cases": 3}), 400, "cases", "at most 2")
    error(client.post("/v1/evaluations", json={**asked, "task": "x"}), 400, "task")
    wrong = {**asked, "benchmark": "x"}
    error(client.post("/v1/evaluations", json=wrong), 404, "benchmark", "allowed: miniature.")
    named = client.post("/v1/evaluations", json={**asked, "benchmark": "miniature"})
    assert named.json()["id"] == first.json()["id"]


def test_an_evaluation_and_the_images_api_draw_the_same_picture(client):
    case = client.get(f"{BENCHMARK}/t2i/cases").json()["data"][0]
    asked = {"model": "plain", "task": "t2i", "cases": 1}
    name = client.post("/v1/evaluations", json=asked).json()["id"]
    evaluated = client.get(f"/v1/evaluations/{name}/pictures/{case['id']}.png").content
    fields = {"prompt": case["prompt"], "seed": case["seed"], "size": case["size"]}
    drawn = draw(client, **fields).json()["data"][0]["b64_json"]
    difference = pixels(drawn).astype(int) - np.asarray(Image.open(BytesIO(evaluated)))
    assert np.abs(difference).max() <= 1


@pytest.fixture(scope="module")
def two(recipe, store, tmp_path_factory):
    """A client of a server of the miniature and of a file of cases, whose edits nobody judges."""
    signs = write_signs(tmp_path_factory.mktemp("cases"))
    named = load_serving(None, [f"benchmarks=[miniature, {signs}]"])
    settings = SETTINGS.model_copy(update={"benchmarks": named.benchmarks})
    with client_of(in_process(recipe, store, settings)) as client:
        yield client


def test_of_two_benchmarks_each_has_its_own_judges(two):
    cards = {card["id"]: card for card in two.get("/v1/benchmarks").json()["data"]}
    assert list(cards) == ["miniature", "signs"]
    assert cards["signs"]["tasks"] == {"t2i": ["wood"], "edit": ["color"]}
    assert cards["signs"]["judges"] == {"t2i": ["ocr"], "edit": []}
    assert cards["miniature"]["judges"] == {"t2i": ["exact", "ocr"], "edit": ["exact", "ocr"]}
    assert two.get("/v1/me").json()["judges"] == ["exact", "ocr"]
    models = {model["id"]: model for model in two.get("/v1/models").json()["data"]}
    assert models["plain"]["scores"]["benchmark"] == "miniature"


def test_of_two_benchmarks_an_evaluation_names_one(two):
    asked = {"model": "plain", "task": "t2i", "cases": 2}
    allowed = "allowed: miniature, signs."
    error(two.post("/v1/evaluations", json=asked), 400, "benchmark", "missing", allowed)
    other = {**asked, "benchmark": "x"}
    error(two.post("/v1/evaluations", json=other), 404, "benchmark", "no 'x'", allowed)
    signs = {**asked, "benchmark": "signs"}
    exact = two.post("/v1/evaluations", json={**signs, "judge": "exact"})
    error(exact, 400, "judge", "'exact' judges no t2i cases of signs here; allowed: ocr.")
    edits = two.post("/v1/evaluations", json={**signs, "task": "edit"})
    error(edits, 400, "task", "can judge the edit cases of signs; allowed: t2i.")

    started = two.post("/v1/evaluations", json=signs)
    assert started.status_code == 202, started.text
    found = two.get(f"/v1/evaluations/{started.json()['id']}").json()
    assert (found["benchmark"], found["judge"], found["status"]) == ("signs", "ocr", "succeeded")
    assert {answer["case"] for answer in found["result"]["answers"]} == {"open", "exit"}
    judged = two.post("/v1/evaluations", json={**asked, "benchmark": "miniature", "cases": 1})
    assert judged.json()["judge"] == "exact"
    beside = two.get(f"/v1/evaluations/{found['id']}/beside/{judged.json()['id']}").json()
    assert beside["unlike"] == ["benchmark", "judge", "cases"]


def test_of_two_benchmarks_a_single_answer_is_scored_by_the_judge_of_its_own(two):
    cases = two.get("/v1/benchmarks/signs/t2i/cases").json()["data"]
    assert [case["id"] for case in cases] == ["exit"] and cases[0]["size"] == "96x64"
    body = {"benchmark": "signs", "task": "t2i", "case": "exit"}
    body["b64_json"] = b64(png(np.zeros((64, 96, 3), np.uint8)))
    assert two.post("/v1/scores", json=body).json()["details"]["wanted"] == "EXIT"
    (case,) = two.get("/v1/benchmarks/signs/edit/cases").json()["data"]
    assert case["category"] == "color" and two.get(*case["references"]).is_success
    edit = {**body, "task": "edit", "case": "red"}
    error(two.post("/v1/scores", json=edit), 400, "task", "no judge here", "allowed: t2i.")
