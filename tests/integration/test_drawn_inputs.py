"""Pictures to edit that the base draws: each once, for every command and recipe of that base, and
a server that waits for none."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flash_ray.evaluation import inputs
from flash_ray.evaluation.benchmark import load_benchmark, named_benchmark
from flash_ray.evaluation.drawing import Weights, drawn_by_actors, encode_in_task
from flash_ray.evaluation.inputs import kept_in, undrawn, undrawn_line, with_inputs
from flash_ray.evaluation.pictures import HOME
from flash_ray.evaluation.sample import student_sampler, teacher_sampler
from flash_ray.serving.benchmarks import checked_benchmarks
from flash_ray.serving.settings import Serving
from flash_ray.storage.s3 import Store
from flash_ray.telemetry.progress import Steps
from tests.helpers.distilling import small_recipe
from tests.helpers.serving import client_of, in_process
from tests.helpers.small import publish

ROWS = [
    {
        "id": f"edit-{number}",
        "category": "roofs",
        "prompt": f"Paint the roof {color}",
        "picture_prompt": f"A barn {number}",
        "text": "OPEN",
    }
    for number, color in enumerate(("blue", "green"))
]
STARTED = {"model": "plain", "benchmark": "roofs", "task": "edit", "cases": 2, "judge": "ocr"}


@pytest.fixture
def own(store, request):
    """A prefix of the bucket for one test."""
    return Store(store.bucket, f"inputs-{request.node.name}", store.endpoint)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "roofs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


@pytest.fixture
def recipe(base, file):
    named = f"evaluation={{benchmark: {{edit: {file}}}, judge: ocr, every: 0, published_cases: 0}}"
    return small_recipe(base, named)


@pytest.mark.slow
def test_the_cluster_draws_each_once_as_the_teacher_for_all_recipes_of_the_base(
    cluster, own, recipe, file, base, monkeypatch
):
    choice = named_benchmark(str(file))
    seen: list[tuple[str, int, int]] = []
    with Steps() as steps:
        monkeypatch.setattr(steps, "show", lambda stage, done, total: seen.append((done, total)))
        one = with_inputs(load_benchmark(choice, recipe), recipe, own, 1, steps)
        assert seen[-1] == (1, 1) and len(list(own.list(HOME))) == 1  # what was asked for
        kept = with_inputs(one, recipe, own, None, steps)
        assert len(list(own.list(HOME))) == 2 and undrawn(kept.cases("edit", 9)) == []
        pixels = [np.asarray(case.references[0]) for case in kept.cases("edit", 9)]
        assert pixels[0].shape == (64, 64, 3) and not np.array_equal(*pixels)

        # Nothing is drawn again: not for another student of the base, nor for its teacher.
        monkeypatch.setattr(inputs, "draw_by_base", lambda *_: pytest.fail("drawn twice"))
        other = small_recipe(base, "student.steps=2", "seed=5", "training.iterations=8")
        again = with_inputs(load_benchmark(choice, other), other, own, None, steps)
    assert again.digest == kept.digest
    cases = again.cases("edit", 9)
    assert all(map(np.array_equal, [case.references[0] for case in cases], pixels))
    before = set(own.list(HOME))
    with drawn_by_actors(recipe, own, {"base": Weights()}) as draw:
        asked = [case.references.asked[0] for case in cases]
        drawn = draw("base", teacher_sampler(recipe), asked, lambda count: None)
        assert all(map(np.array_equal, drawn, pixels)) and set(own.list(HOME)) == before

        # And models answer them.
        answers = draw("base", student_sampler([1.0, 0.5]), cases, lambda count: None)
        assert [answer.shape for answer in answers] == [(64, 64, 3)] * 2
    (encoded,) = encode_in_task(recipe, [{"edit": kept.cases("edit", 2)}])
    assert [case.id for case in encoded.cases("edit")] == ["edit-0", "edit-1"]


def test_a_server_leaves_out_what_is_not_drawn_and_takes_it_up_when_it_is(
    cluster, own, recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("FLASH_RAY_CACHE", str(tmp_path / "cache"))
    publish(own, recipe, "plain", tmp_path / "student")
    (served,) = checked_benchmarks(recipe, Serving()).values()
    served = served.kept_in(own)
    assert undrawn_line(served.benchmark) == (
        "roofs: 2 pictures to edit, of 2 cases, are not drawn, and their cases are left out; draw "
        "them with `flash-ray benchmark draw --recipe RECIPE`, while no server uses the store if "
        "that is an embedded one"
    )
    path = "/v1/benchmarks/roofs/edit/cases"
    with client_of(in_process(recipe, own, Serving())) as client:
        assert client.get("/v1/benchmarks").json()["data"][0]["digest"] == served.digest
        assert client.get(f"{path}?per_category=2").json()["data"] == []
        for problem, status in (
            (client.get(f"{path}/edit-0/input.png"), 404),
            (client.post("/v1/evaluations", json=STARTED), 503),
        ):
            assert problem.status_code == status and "not drawn yet" in problem.text
        with Steps() as steps:
            with_inputs(served.benchmark, recipe, own, None, steps)
        assert undrawn_line(served.benchmark) is None
        cards = client.get(f"{path}?per_category=2").json()["data"]
        assert [card["id"] for card in cards] == ["edit-0", "edit-1"]
        answer = client.get(cards[0]["references"][0])
        (first, _) = kept_in(served.benchmark, own).cases("edit", 9)
        shown = np.asarray(Image.open(BytesIO(answer.content)).convert("RGB"))
        assert np.array_equal(shown, first.references[0])
        started = client.post("/v1/evaluations", json=STARTED).json()
        ended = client.get(f"/v1/evaluations/{started['id']}").json()
        assert ended["status"] == "succeeded" and ended["result"]["counted"] == 2
