"""One record, one fault: a damaged manifest or alias costs itself alone."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_ray.errors import UserError
from flash_ray.serving.evaluations import EvaluationStore
from flash_ray.serving.registry import ModelRegistry, ServedModel, teacher_of
from flash_ray.serving.weights import WeightCache
from flash_ray.storage.records import CorruptRecord, parse_record
from flash_ray.storage.students import Alias, Student, list_students, read_aliases
from tests.helpers.corruption import (
    EXAMPLES,
    NAMES,
    ONE_OF_THREE,
    QUICK,
    RECIPE,
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


@pytest.fixture(scope="module")
def teacher() -> ServedModel:
    """It is made of the base's files: once."""
    return teacher_of(RECIPE)


@pytest.fixture
def registry(
    store: MemoryStore, teacher: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> ModelRegistry:
    monkeypatch.setattr("flash_ray.serving.registry.teacher_of", lambda *_: teacher)
    return ModelRegistry(RECIPE, store, {}, max_age=0.0)


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


STRANGE_KEYS = {
    "alias of HTML": "aliases/<img src=x>.json",
    "alias of the teacher's name": "aliases/teacher.json",
    "alias without a name": "aliases/.json",
    "alias in a folder": "aliases/a/b.json",
    "alias of another ending": "aliases/a.txt",
    "alias of a long name": "aliases/" + "x" * 300 + ".json",
    "student of HTML": "students/<img src=x>/model.json",
    "student of the folder above": "students/../model.json",
    "student without a name": "students//model.json",
    "student of control characters": "students/\x1b[2J/model.json",
    "evaluation of HTML": "evaluations/<img src=x>/request.json",
    "evaluation of the folder above": "evaluations/../request.json",
}


@pytest.mark.parametrize("key", STRANGE_KEYS.values(), ids=STRANGE_KEYS.keys())
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


def test_weights_that_a_name_does_not_have_are_not_loaded_under_its_digest(
    store: MemoryStore, registry: ModelRegistry, tmp_path: Path
) -> None:
    model = asyncio.run(registry.models())["one"]
    cache = WeightCache(store, tmp_path / "cache", 2**30)
    with pytest.raises(UserError, match="'one' has other weights now"):
        cache.folder_of(model.model_copy(update={"digest": "0" * 16}))
    assert not (tmp_path / "cache").exists()
    assert (cache.folder_of(model) / "transformer" / "config.json").is_file()


def test_what_is_wrong_is_said_by_field_value_and_rule() -> None:
    with pytest.raises(CorruptRecord) as fault:
        parse_record(Alias, b'{"student": "<img src=x>"}', "s3://b/aliases/x.json", "remove it")
    assert str(fault.value).startswith("s3://b/aliases/x.json is corrupt (student '<img src=x>': ")
    assert str(fault.value).endswith("; remove it")
