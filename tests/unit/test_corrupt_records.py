"""One record, one fault: whatever is wrong with an object of a store costs that object alone."""

import asyncio
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.recipe import load_recipe
from flash_ray.serving.evaluations import EvaluationSpec, EvaluationStore
from flash_ray.serving.registry import ModelRegistry, ServedModel, teacher_of
from flash_ray.serving.schemas import Evaluation, EvaluationResult, Failure
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.manifest import open_run, record_run
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.storage.students import (
    Alias,
    Student,
    list_students,
    publish_student,
    read_aliases,
    set_alias,
)
from flash_ray.studies.findings import compare_arms
from flash_ray.studies.records import (
    STUDY,
    TRIALS,
    CategoryData,
    Cost,
    Record,
    append_record,
    read_records,
)
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.workflows import study as commands
from tests.helpers.mutation import mutations
from tests.helpers.storage import MemoryStore

RECIPE = load_recipe("miniature")
NAMES = ("one", "three", "two")
QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
ONE_OF_THREE = st.sampled_from(NAMES)
Draw = st.DataObject
EXAMPLES = pytest.mark.parametrize(
    "examples", [60, pytest.param(2_000, marks=pytest.mark.slow)], ids=["some", "many"]
)


class Tried:
    """Counts the objects that were mutated, and those of them that were named as corrupt."""

    def __init__(self) -> None:
        self.mutated = self.named = 0

    def count(self, is_named: bool) -> None:
        self.mutated += 1
        self.named += is_named


@pytest.fixture(scope="module")
def tried() -> Iterator[Tried]:
    tried = Tried()
    yield tried
    print(
        f"\n{tried.mutated} objects mutated: {tried.named} named as corrupt and left out, "
        f"{tried.mutated - tried.named} still sound; all others as they were"
    )


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """Three students, and aliases of theirs."""
    store = MemoryStore("bucket")
    for name in NAMES:
        folder = tmp_path / name
        (folder / "transformer").mkdir(parents=True)
        (folder / "transformer" / "config.json").write_text(json.dumps(name))
        publish_student(store, name, folder, RECIPE)
        set_alias(store, f"alias-{name}", name)
    return store


@pytest.fixture(scope="module")
def teacher() -> ServedModel:
    """It is made of the base's files: once."""
    return teacher_of(RECIPE)


@pytest.fixture
def registry(
    store: MemoryStore, teacher: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> ModelRegistry:
    monkeypatch.setattr("flash_ray.serving.registry.teacher_of", lambda *_: teacher)
    return ModelRegistry(RECIPE, store, None, max_age=0.0)


def damaged(store: MemoryStore, key: str, data: Draw, check: Callable[[], None]) -> None:
    """Replaces an object while it is checked that only that one is affected."""
    whole = store.objects[key]
    store.objects[key] = data.draw(mutations(whole))
    try:
        check()
    finally:
        store.objects[key] = whole


def is_one_line(fault: CorruptRecord) -> bool:
    again = pickle.loads(pickle.dumps(fault))
    return str(again) == str(fault) and str(fault).isprintable() and len(str(fault)) < 1000


@EXAMPLES
def test_a_damaged_manifest_costs_its_own_student_and_aliases(
    store: MemoryStore, registry: ModelRegistry, tried: Tried, examples: int
) -> None:
    before = {student.name: student for student in list_students(store)[0]}
    served = asyncio.run(registry.models())
    assert list(served) == ["teacher", *sorted([*NAMES, *(f"alias-{name}" for name in NAMES)])]

    @given(name=ONE_OF_THREE, data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(name: str, data: Draw) -> None:
        def only_this_one() -> None:
            students, faults = list_students(store)
            found = {student.name: student for student in students}
            assert {n: s for n, s in found.items() if n != name} == {
                n: s for n, s in before.items() if n != name
            }
            models = asyncio.run(registry.models())
            own = {name, f"alias-{name}"}
            assert {i: m for i, m in models.items() if i not in own} == {
                i: m for i, m in served.items() if i not in own
            }
            for model in models.values():
                json.loads(model.model_dump_json())
            tried.count(name not in found)
            if name in found:
                assert faults == [] and registry.fault(name) is None
                assert is_sound(found[name], before[name])
            else:
                (fault,) = faults
                assert fault.where == f"s3://bucket/students/{name}/model.json"
                assert is_one_line(fault) and str(registry.fault(name)) == str(fault)

        damaged(store, f"students/{name}/model.json", data, only_this_one)

    check()
    assert asyncio.run(registry.models()) == served


def is_sound(student: Student, before: Student) -> bool:
    """Whether what was changed is nothing that loads or draws anything else."""
    sigmas = student.sigmas
    assert 1 >= sigmas[0] and sigmas[-1] > 0 and sorted(set(sigmas), reverse=True) == sigmas
    return student.folder == before.folder or student.files != before.files


@EXAMPLES
def test_a_damaged_alias_costs_itself(
    store: MemoryStore, registry: ModelRegistry, tried: Tried, examples: int
) -> None:
    before, _ = read_aliases(store)

    @given(name=ONE_OF_THREE, data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(name: str, data: Draw) -> None:
        alias = f"alias-{name}"

        def only_this_one() -> None:
            found, faults = read_aliases(store)
            assert {**found, alias: ""} == {**before, alias: ""}
            assert {*NAMES, "teacher", *before} - {alias} <= set(asyncio.run(registry.models()))
            tried.count(alias not in found)
            assert [fault.where for fault in faults] == (
                [] if alias in found else [f"s3://bucket/aliases/{alias}.json"]
            )
            assert all(map(is_one_line, faults))

        damaged(store, f"aliases/{alias}.json", data, only_this_one)

    check()


@pytest.mark.parametrize(
    "key",
    [
        "aliases/<img src=x>.json",
        "aliases/teacher.json",
        "aliases/.json",
        "aliases/a/b.json",
        "aliases/a.txt",
        "aliases/" + "x" * 300 + ".json",
        "students/<img src=x>/model.json",
        "students/../model.json",
        "students//model.json",
        "students/\x1b[2J/model.json",
        "evaluations/<img src=x>/request.json",
        "evaluations/../request.json",
    ],
)
def test_a_name_that_nobody_could_give_costs_itself(
    store: MemoryStore,
    registry: ModelRegistry,
    key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve_log = logging.getLogger("ray.serve")  # whose handlers depend on what else was imported
    monkeypatch.setattr(serve_log, "propagate", False)
    monkeypatch.setattr(serve_log, "handlers", [caplog.handler])
    before = asyncio.run(registry.models())
    store.objects[key] = Alias(student="one").model_dump_json().encode()
    for _ in range(3):
        assert asyncio.run(registry.models()) == before
        assert EvaluationStore(store).page(9, None) == ([], False)
    students, faults = list_students(store)
    aliases, more = read_aliases(store)
    assert len(students) == len(aliases) == len(NAMES)
    if key.startswith("evaluations"):
        assert "not the id of an evaluation" in caplog.text
    else:
        (fault,) = faults + more
        assert is_one_line(fault) and caplog.text.count(str(fault)) == 1


def test_a_manifest_that_was_replaced_is_read_again(
    store: MemoryStore, registry: ModelRegistry
) -> None:
    key, before = "students/one/model.json", asyncio.run(registry.models())
    whole = store.objects[key]
    for _ in range(2):
        store.objects[key] = b"{"
        assert "one" not in asyncio.run(registry.models())
        store.objects[key] = whole
        assert asyncio.run(registry.models()) == before
    store.objects["aliases/teacher.json"] = b'{"student":"one"}'
    assert asyncio.run(registry.models())["teacher"] == before["teacher"]


def test_a_giant_is_not_read(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flash_ray.storage.records.MOST_BYTES", 10_000)
    store.objects["students/one/model.json"] = b" " * 10_001
    students, (fault,) = list_students(store)
    assert [student.name for student in students] == ["three", "two"]
    assert "more than" in fault.reason


@pytest.fixture
def evaluations(store: MemoryStore, registry: ModelRegistry) -> dict[str, Evaluation]:
    """Evaluations that succeeded, failed and run; views of them by id."""
    kept, model = EvaluationStore(store), asyncio.run(registry.models())["one"]
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
            unfinished = fresh.unfinished("miniature", "miniature")
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


@pytest.mark.parametrize("digest", ["", "..", "../../../etc", "/etc", "x" * 16])
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


def test_weights_that_a_name_does_not_have_are_not_loaded_under_its_digest(
    store: MemoryStore, registry: ModelRegistry, tmp_path: Path
) -> None:
    model = asyncio.run(registry.models())["one"]
    cache = WeightCache(store, tmp_path / "cache", 2**30)
    with pytest.raises(UserError, match="'one' has other weights now"):
        cache.folder_of(model.model_copy(update={"digest": "0" * 16}))
    assert not (tmp_path / "cache").exists()
    assert (cache.folder_of(model) / "transformer" / "config.json").is_file()


@EXAMPLES
def test_a_damaged_run_costs_itself(tried: Tried, examples: int) -> None:
    store = MemoryStore("bucket")
    fields = RECIPE.model_dump(mode="json")
    for name in NAMES:
        record_run(store, name, fields, RECIPE.digest)

    @given(name=ONE_OF_THREE, data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(name: str, data: Draw) -> None:
        def only_this_one() -> None:
            for other in set(NAMES) - {name}:
                assert open_run(store, other).name == other
            try:
                open_run(store, name)
                tried.count(False)
            except UserError as error:
                tried.count(True)
                assert f"runs/{name}/run.json" in str(error) or "--resume" in str(error)

        damaged(store, f"runs/{name}/run.json", data, only_this_one)

    check()


STUDY_FILE = """
name: small
recipe: miniature
budget: {iterations: 10}
seeds: [0, 1]
cases: {t2i: 1}
arms: {half: {}, good: {tasks: {t2i: 1, edit: 0}}}
"""


@EXAMPLES
def test_a_damaged_line_costs_its_trial(tmp_path: Path, tried: Tried, examples: int) -> None:
    (tmp_path / "small.yaml").write_text(STUDY_FILE)
    study = load_study(str(tmp_path / "small.yaml"))
    trials, out = plan_trials(study), tmp_path / "out"
    commands.claim_folder(out, study)
    for trial in trials:
        append_record(
            out,
            Record(
                trial=trial.name,
                arm=trial.arm,
                seed=trial.seed,
                digest=trial.digest,
                iterations=10,
                scores={
                    task: {
                        case.id: CaseScore(score=2 + number / 10, measures={"a": 0.5})
                        for number, case in enumerate(cases)
                    }
                    for task, cases in trial.scored_cases().items()
                },
                curve=((5, {"t2i": 3.0}),),
                cost=Cost(images=1, teacher_calls=2, seconds=1.5, compute=2.5, unit="CPU-seconds"),
                data={"t2i": {"text": CategoryData(unique=8, passes=2.5)}},
            ),
        )
    lines = (out / TRIALS).read_bytes().splitlines()
    before, none = read_records(out, trials)
    assert none == [] and len(before) == len(lines) == 4
    cases = trials[0].scored_cases()

    @given(number=st.integers(0, len(lines) - 1), data=st.data())
    @settings(max_examples=examples, **QUICK)
    def check(number: int, data: Draw) -> None:
        own = trials[number].name
        mutated = data.draw(mutations(lines[number]))
        (out / TRIALS).write_bytes(b"\n".join([*lines[:number], mutated, *lines[number + 1 :]]))
        found, faults = read_records(out, trials)
        assert {n: r for n, r in found.items() if n != own} == {
            n: r for n, r in before.items() if n != own
        }
        tried.count(own not in found)
        assert all(map(is_one_line, faults))
        findings = compare_arms(study, cases, trials, found)
        assert findings.missing == (() if own in found else (own,))
        assert findings.unscored == {"t2i": 0} or own in found
        means = [cell.mean for table in findings.tables for row in table.rows
                 for cell, _ in row.cells.values()]  # fmt: skip
        assert len(means) > 0 and np.isfinite(means).all()

    check()
    assert (out / STUDY).is_file()


def test_what_is_wrong_is_said_by_field_value_and_rule() -> None:
    with pytest.raises(CorruptRecord) as fault:
        parse_record(Alias, b'{"student": "<img src=x>"}', "s3://b/aliases/x.json", "remove it")
    assert str(fault.value).startswith("s3://b/aliases/x.json is corrupt (student '<img src=x>': ")
    assert str(fault.value).endswith("; remove it")


def test_a_trial_without_data_or_an_end_is_no_record() -> None:
    fields = {"trial": "a-0", "arm": "a", "seed": 0, "digest": "x", "iterations": 1}
    cost = {"images": 1, "teacher_calls": 1, "seconds": 1, "compute": 1, "unit": "CPU-seconds"}
    scores = {"t2i": {"text-000": {"score": 2}}}
    for more in ({}, {"scores": scores, "cost": cost, "data": {"t2i": {}}}):
        with pytest.raises(CorruptRecord, match="neither diverged, nor with scores, cost and data"):
            parse_record(Record, json.dumps({**fields, **more}).encode(), "line 1", "remove it")
    assert parse_record(
        Record, json.dumps({**fields, "diverged": "why"}).encode(), "1", ""
    ).diverged
