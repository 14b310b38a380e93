"""One record, one fault: a damaged evaluation costs itself, and is mended when it is asked for."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_ray.serving.evaluations import EvaluationSpec, EvaluationStore
from flash_ray.serving.registry import model_of
from flash_ray.serving.schemas import Evaluation, EvaluationResult, Failure
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.students import read_student
from tests.helpers.corruption import (
    EXAMPLES,
    QUICK,
    Draw,
    Tried,
    counted,
    damaged,
    is_one_line,
    store_of_students,
)
from tests.helpers.storage import MemoryStore


@pytest.fixture(scope="module")
def tried() -> Iterator[Tried]:
    with counted() as tried:
        yield tried


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return store_of_students(tmp_path)


@pytest.fixture
def evaluations(store: MemoryStore) -> dict[str, Evaluation]:
    """Evaluations that succeeded, failed and run; views of them by id."""
    kept, model = EvaluationStore(store), model_of(read_student(store, "one"))
    result = EvaluationResult(
        score=2.0, interval=(1.0, 3.0), counted=1, measures={"a": 0.5}, categories={}, answers=[]
    )
    specs = [
        EvaluationSpec(
            model=model,
            benchmark="miniature",
            digest="0123456789abcdef",
            task="t2i",
            cases=1,
            total=3,
            seed=seed,
            judge="exact",
            scale="1 to 5",
            vlm={"model": "x", "parameters": {"temperature": 0.5}} if seed else None,
            created=seed,
        )
        for seed in range(3)
    ]
    for spec in specs:
        assert kept.open(spec)
    kept.finish(specs[0].id, "result", result)
    kept.finish(specs[1].id, "failed", Failure(error="why"))
    views = {spec.id: kept.view(spec.id) for spec in specs}
    return {id: view for id, view in views.items() if view}


@EXAMPLES
def test_a_damaged_evaluation_costs_itself_and_can_be_asked_for_again(
    store: MemoryStore, evaluations: dict[str, Evaluation], tried: Tried, examples: int
) -> None:
    keys = [key for key in store.objects if key.startswith("evaluations/")]
    assert len(keys) == 5
    running = next(id for id, view in evaluations.items() if view.status == "queued")
    specs = {id: EvaluationStore(store).spec(id) for id in evaluations}

    @given(key=st.sampled_from(keys), data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(key: str, data: Draw) -> None:
        own = key.split("/")[1]

        def only_this_one() -> None:
            fresh = EvaluationStore(store)
            views, more = fresh.page(9, None)
            listed = {view.id: view for view in views}
            assert not more and set(listed) >= set(evaluations) - {own}
            for id in set(evaluations) - {own}:
                assert fresh.view(id) == evaluations[id]
            unfinished = fresh.unfinished("miniature", {"miniature"})
            assert set(unfinished) - {own} == {running} - {own}
            try:
                view = fresh.view(own)
                is_named = view is not None and "is corrupt (" in (view.error or "")
                assert view and json.loads(view.model_dump_json())
            except CorruptRecord as fault:
                is_named = True
                assert is_one_line(fault) and fault.where == f"s3://bucket/{key}"
                assert own not in listed
            tried.count(is_named)
            if is_named and (spec := specs[own]):
                assert EvaluationStore(store).open(spec) or key.endswith("request.json")
                mended = EvaluationStore(store).view(own)
                assert mended and "is corrupt" not in (mended.error or "")

        whole = dict(store.objects)
        try:
            damaged(store, key, data, only_this_one)
        finally:
            store.objects.clear()
            store.objects.update(whole)

    check()


@pytest.mark.parametrize(
    "digest",
    ["", "..", "../../../etc", "/etc", "x" * 16],
    ids=["none", "parent", "far away", "absolute", "no digits"],
)
def test_a_request_cannot_name_a_folder_for_weights(
    store: MemoryStore, evaluations: dict[str, Evaluation], digest: str
) -> None:
    id = next(iter(evaluations))
    key = f"evaluations/{id}/request.json"
    fields = json.loads(store.objects[key])
    fields["model"]["digest"] = digest
    store.objects[key] = json.dumps(fields).encode()
    with pytest.raises(CorruptRecord, match="model.digest"):
        EvaluationStore(store).spec(id)
