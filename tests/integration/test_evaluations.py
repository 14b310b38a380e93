"""Evaluations by several kinds of judges, and lists of many; a real store, a small model."""

import logging
from functools import partial
from io import BytesIO
from itertools import count

import pytest
from PIL import Image

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.endpoint import VlmSettings
from flash_ray.recipe.schema import Evaluation
from flash_ray.serving import benchmarks
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.schemas import EvaluationResult, Failure
from flash_ray.serving.settings import Serving
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.s3 import Store
from tests.helpers.chat_server import KEY, Answer, chat_server, good
from tests.helpers.distilling import small_recipe
from tests.helpers.serving import client_of, in_process
from tests.helpers.small import build_base, publish

ASKED = {"model": "plain", "task": "t2i", "cases": 1}


@pytest.fixture(scope="module")
def own_store(store):
    """A prefix of the store where no other test leaves evaluations."""
    return Store(store.bucket, "evaluated", store.endpoint)


@pytest.fixture(scope="module")
def recipe(own_store, tmp_path_factory):
    recipe = small_recipe(build_base(tmp_path_factory.mktemp("base")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        publish(own_store, recipe, "plain", tmp_path_factory.mktemp("student"))
        yield recipe


@pytest.fixture(scope="module")
def service(recipe, own_store):
    return in_process(recipe, own_store, Serving())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with chat_server() as running:
        yield running
    assert running.problems == []


def evaluated(recipe, store, settings, **fields):
    """The answer to a request, and the evaluation once it has ended."""
    with client_of(in_process(recipe, store, settings)) as client:
        first = client.post("/v1/evaluations", json={**ASKED, **fields})
        assert first.status_code in (200, 202), first.text
        return first, client.get(f"/v1/evaluations/{first.json()['id']}").json()


def with_judge(server, **fields):
    vlm = {"base_url": server.base_url, "key_variable": "JUDGE_KEY", "max_requests": 9, **fields}
    return Serving(judges={"mine": VlmSettings(**{"model": "seer", **vlm})})


def test_ocr_judges_texts_only(recipe, own_store):
    first, found = evaluated(recipe, own_store, Serving(), judge="ocr")
    assert first.status_code == 202 and found["status"] == "succeeded"
    assert (found["judge"], found["scale"]) == ("ocr", "characters right, 0 to 1")
    assert found["progress"] == {"done": 3, "total": 3}
    result = found["result"]
    text = result["categories"]["text"]
    assert text["counted"] == 1 and 0 <= text["score"] <= 1 and text["score"] == result["score"]
    assert result["categories"]["landscape"]["score"] is None
    answers = {answer["category"]: answer for answer in result["answers"]}
    assert answers["text"]["details"]["cer"] >= 0
    for answer in answers.values():
        assert answer["measures"] == {} and "attributes" not in answer["details"]

    exact = evaluated(recipe, own_store, Serving())[1]
    assert exact["id"] != found["id"] and exact["judge"] == "exact"
    assert "compliance" in exact["result"]["categories"]["landscape"]["measures"]
    assert "diversity_gap" in exact["result"]["categories"]["landscape"]["details"]


def test_a_vlm_judges_by_the_name_that_the_settings_give_it(recipe, own_store, server):
    judged = partial(evaluated, recipe, own_store, judge="mine")
    server.script = lambda asked, number: good(2 + number) if number < 2 else Answer("no idea")
    settings = with_judge(server, concurrency=1)
    _, found = judged(settings)
    assert found["status"] == "succeeded", found
    result = found["result"]
    assert (result["score"], result["counted"], result["measures"]) == (2.5, 2, {})
    assert [answer["failure"] for answer in result["answers"]] == [None, None, "unparsed"]
    assert result["answers"][0]["details"]["reason"] == "as asked"
    again, _ = judged(settings)
    assert again.status_code == 200 and len(server.asked) == 4  # the last question twice

    other = with_judge(server, model="other")
    server.script = lambda asked, number: good(5)
    assert judged(other)[1]["id"] != found["id"]
    assert len(server.asked) == 7


def test_a_budget_that_does_not_suffice_fails_and_a_larger_one_goes_on(recipe, own_store, server):
    judged = partial(evaluated, recipe, own_store, judge="mine", seed=1)
    _, failed = judged(with_judge(server, max_requests=2, concurrency=1))
    assert failed["status"] == "failed" and failed["result"] is None
    assert "vlm.max_requests: 2 do not suffice" in failed["error"] and KEY not in failed["error"]
    again, found = judged(with_judge(server, max_requests=9))
    assert (again.status_code, again.json()["id"]) == (202, failed["id"])
    assert found["status"] == "succeeded" and len(server.asked) == 3


def test_without_its_key_or_its_settings_a_judge_fails_before_anything_is_drawn(
    recipe, own_store, server, monkeypatch
):
    service = in_process(recipe, own_store, with_judge(server))
    monkeypatch.delenv("JUDGE_KEY")  # as on a node without it
    with client_of(service) as client:
        asked = client.post("/v1/evaluations", json={**ASKED, "judge": "mine", "seed": 2}).json()
        found = client.get(f"/v1/evaluations/{asked['id']}").json()
    assert found["status"] == "failed" and "JUDGE_KEY" in found["error"]
    assert found["progress"]["done"] == 0

    # Asked for of one server, taken up by another one, that has another judge of that name, or
    # whose benchmark has other cases now.
    evaluations = EvaluationStore(own_store)
    spec = evaluations.spec(found["id"])
    for change, message in (
        ({"seed": 3, "vlm": {"model": "another", "parameters": {}}}, "do not name 'mine' any more"),
        ({"digest": "0" * 16}, "does not have 'miniature' with the digest 0000000000000000"),
    ):
        other = spec.model_copy(update=change)
        evaluations.open(other)
        with client_of(service) as client:
            assert client.portal.call(service.start, other.id) is None
            view = client.get(f"/v1/evaluations/{other.id}").json()
        assert view["status"] == "failed" and message in view["error"]
    assert server.asked == []


def test_unknown_judges_are_errors(service):
    with client_of(service) as client:
        for judge in ("mine", "vlm:/etc/passwd", "http://127.0.0.1/v1"):
            answer = client.post("/v1/evaluations", json={**ASKED, "judge": judge})
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["param"] == "judge" and "allowed: exact, ocr." in error["message"]


RESULT = EvaluationResult(
    score=1.0, interval=(1.0, 1.0), counted=1, measures={}, categories={}, answers=[]
)


@pytest.fixture
def many(store, service):
    """A store of its own with seven requests, the last three of one second, and their ids in the
    order of lists; the fourth succeeded, the fifth failed, and the sixth is of another base."""
    many = Store(store.bucket, "many", store.endpoint)
    with client_of(service) as client:
        name = client.post("/v1/evaluations", json=ASKED).json()["id"]
    spec = service.evaluations.spec(name)
    other = spec.model.model_copy(update={"base": "another"})
    ids: list[str] = []
    seeds = count()
    for number in range(7):
        update = {"created": 100 - min(number, 4), "model": other if number == 5 else spec.model}
        asked = (spec.model_copy(update={**update, "seed": seed}) for seed in seeds)
        own = next(one for one in asked if number < 5 or one.id > ids[-1])
        ids.append(id := own.id)
        many.put_bytes_if_absent(f"evaluations/{id}/request.json", own.model_dump_json().encode())
        for case in range(number):
            many.put_bytes(f"evaluations/{id}/pictures/{case}.png", b"")
    EvaluationStore(many).finish(ids[3], "result", RESULT)
    EvaluationStore(many).finish(ids[4], "failed", Failure(error="why"))
    return many, ids


class Counting(Store):
    """Counts what is asked of the server."""

    def count(self, *names):
        return sum(self.__dict__.get("counts", {}).get(name, 0) for name in names)

    def _count(self, name):
        counts = self.__dict__.setdefault("counts", {})
        counts[name] = counts.get(name, 0) + 1

    def get_bytes(self, key, most=None):
        self._count("get")
        return super().get_bytes(key, most)

    def _listed(self, prefix):
        self._count("list")
        return super()._listed(prefix)

    def folders(self, prefix):
        self._count("folders")
        return super().folders(prefix)


def test_a_list_has_pages(recipe, many):
    many_store, ids = many
    with client_of(in_process(recipe, many_store, Serving())) as client:

        def page(**fields):
            answer = client.get("/v1/evaluations", params=fields)
            assert answer.status_code == 200, answer.text
            return answer.json()

        whole = page()
        assert [one["id"] for one in whole["data"]] == ids and not whole["has_more"]
        assert [one["judge"] for one in whole["data"]] == ["exact"] * 7
        assert [one["progress"]["done"] for one in whole["data"]] == [0, 1, 2, 3, 3, 3, 3]
        states = [one["status"] for one in whole["data"]]
        assert states == ["queued", *["running"] * 2, "succeeded", "failed", *["running"] * 2]
        assert whole["data"][4]["error"] == "why" and whole["data"][3]["result"] is None
        assert client.get(f"/v1/evaluations/{ids[3]}").json()["result"] == RESULT.model_dump(
            mode="json"
        )

        seen, after = [], {}
        while True:
            part = page(limit=3, **after)
            seen += [one["id"] for one in part["data"]]
            if not part["has_more"]:
                break
            after = {"after": seen[-1]}
        assert seen == ids
        assert page(after=ids[-1]) == {"object": "list", "data": [], "has_more": False}
        for fields, status, param in (
            ({"limit": 0}, 400, "limit"),
            ({"limit": 101}, 400, "limit"),
            ({"after": "eval-9"}, 404, "after"),
        ):
            answer = client.get("/v1/evaluations", params=fields)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_requests_are_read_once_and_what_has_ended_is_not_looked_at_again(recipe, many):
    many_store, ids = many
    store = Counting(many_store.bucket, many_store.prefix, many_store.endpoint)
    evaluations = EvaluationStore(store)
    for times in (1, 2):
        views, more = evaluations.page(2, None)
        assert [view.id for view in views] == ids[:2] and more
        assert store.count("get") == 7
        assert store.count("folders") == times and store.count("list") == 2 * times

    before = store.count("list")
    assert set(evaluations.unfinished(recipe.base, {"miniature"})) == {ids[i] for i in (0, 1, 2, 6)}
    assert store.count("list") - before == 7
    assert set(evaluations.unfinished("another", {"miniature", "starter"})) == {ids[5]}
    assert store.count("list") - before == 7 + 5
    assert store.count("get") == 7


def test_an_evaluation_that_was_taken_out_of_the_store_is_gone(recipe, many):
    many_store, ids = many
    evaluations = EvaluationStore(many_store)
    assert evaluations.view(ids[0]).id == ids[0]
    for key in list(many_store.list(f"evaluations/{ids[0]}/")):
        many_store.delete(key)
    assert evaluations.view(ids[0]) is None
    assert ids[0] not in [view.id for view in evaluations.page(100, None)[0]]


def test_a_page_is_filled_though_some_of_it_are_half_taken_out_of_the_store(many):
    many_store, ids = many
    evaluations = EvaluationStore(many_store)
    evaluations.page(7, None)
    for name in ids[2:4]:  # their pictures are still there
        many_store.delete(f"evaluations/{name}/request.json")
    views, more = evaluations.page(3, None)
    assert [view.id for view in views] == [ids[0], ids[1], ids[4]] and more
    views, more = evaluations.page(2, ids[4])
    assert [view.id for view in views] == ids[5:] and not more


def test_records_that_are_corrupt_or_of_another_version_are_left_out_and_mended(
    many, caplog, monkeypatch
):
    many_store, ids = many
    serve_log = logging.getLogger("ray.serve")  # it does not propagate
    monkeypatch.setattr(serve_log, "propagate", False)
    monkeypatch.setattr(serve_log, "handlers", [caplog.handler])
    key = f"evaluations/{ids[0]}/request.json"
    text = many_store.get_bytes(key)
    damaged = [b"{}", b"[", text.replace(b'"version":3', b'"version":2')]
    damaged.append(text.replace(b'"cases":1', b'"cases":2'))  # the request of another id
    for number, other in enumerate(damaged):
        assert other != text
        many_store.put_bytes(f"evaluations/eval-{number:016}/request.json", other)
    many_store.put_bytes("evaluations/<img src=x>/request.json", text)
    many_store.put_bytes(f"evaluations/{ids[3]}/result.json", b'{"score": "much"}')
    evaluations = EvaluationStore(many_store)
    for _ in range(2):
        assert [view.id for view in evaluations.page(100, None)[0]] == ids
    for number in range(4):
        name = f"eval-{number:016}"
        assert caplog.text.count(f"evaluations/{name}/request.json is corrupt") == 1
        with pytest.raises(CorruptRecord, match=r"request.json is corrupt \(.*; ask for"):
            evaluations.view(name)
        many_store.delete(f"evaluations/{name}/request.json")
    view = evaluations.view(ids[3])
    assert view.status == "failed" and view.result is None
    assert "result.json is corrupt (score" in view.error
    spec = evaluations.spec(ids[3])
    assert evaluations.open(spec) and not evaluations.open(spec)
    assert evaluations.view(ids[3]).status == "running"
    many_store.put_bytes(f"evaluations/{ids[3]}/request.json", b"{")
    assert EvaluationStore(many_store).open(spec)
    assert EvaluationStore(many_store).spec(ids[3]) == spec


class Signs:
    """A benchmark of wide pictures that a package of its own would register."""

    name, digest = "signs", "5" * 16
    categories = {"t2i": ("wood",), "edit": ("join",)}

    def cases(self, task, per_category):
        if task == "t2i":
            return [Case("wood-0", "t2i", "wood", 'A sign "EXIT"', (64, 96), 1, text="EXIT")]
        parts = [Image.new("RGB", size, "gray") for size in ((64, 64), (96, 32))]
        return [
            Case("join-0", "edit", "join", 'Write "GO"', (32, 64), 2, parts[:1], text="GO"),
            Case("join-1", "edit", "join", "Join them", (64, 64), 3, parts),
        ][:per_category]


def test_sizes_categories_and_references_are_the_benchmarks(recipe, own_store, monkeypatch):
    monkeypatch.setattr(benchmarks, "load_benchmark", lambda name, recipe, field: Signs())
    recipe = recipe.model_copy(update={"evaluation": Evaluation()})
    settings = Serving().model_copy(update={"benchmarks": ("signs",)})
    with client_of(in_process(recipe, own_store, settings)) as client:

        def evaluated(task, cases):
            asked = {"model": "plain", "task": task, "cases": cases}
            first = client.post("/v1/evaluations", json=asked)
            return client.get(f"/v1/evaluations/{first.json()['id']}").json()

        def size(path):
            return Image.open(BytesIO(client.get(path).content)).size

        signs = evaluated("t2i", 4)
        assert (signs["benchmark"], signs["judge"]) == ("signs", "ocr")
        assert signs["progress"] == {"done": 1, "total": 1}  # there are no more
        (answer,) = signs["result"]["answers"]
        assert size(answer["picture"]) == (96, 64) and answer["references"] == []
        assert answer["details"]["wanted"] == "EXIT"

        joined = evaluated("edit", 2)
        assert joined["result"]["counted"] == 1 and len(joined["result"]["answers"]) == 2
        sizes = [size(answer["picture"]) for answer in joined["result"]["answers"]]
        assert sizes == [(64, 32), (64, 64)]
        path = "/v1/benchmarks/signs/edit/cases/join-1/input.png"
        references = joined["result"]["answers"][1]["references"]
        assert references == [path, f"{path}?number=2"]
        assert [size(reference) for reference in references] == [(64, 64), (96, 32)]
        cards = client.get("/v1/benchmarks/signs/t2i/cases").json()["data"]
        assert [card["size"] for card in cards] == ["96x64"]

        # The student of this store was scored on another benchmark, which says nothing here.
        models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
        assert models["plain"]["scores"] is None
