"""Published students and runs on a real S3 server: whole or absent, verified, never replaced."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.storage.manifest import RunRecord, open_run, record_run
from flash_ray.storage.records import CorruptRecord
from flash_ray.storage.s3 import Store
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import list_students, load_student, publish_student, read_student

RECIPE = load_recipe("miniature", ["student.steps=2"])
SCORES = PublishedScores(
    benchmark="mine",
    digest="0123456789abcdef",
    judge="exact",
    cases_per_category=3,
    tasks={"t2i": 4.5},
)


@pytest.fixture
def store(store: Store) -> Store:
    """A prefix of its own for each test."""
    return Store(store.bucket, f"publish/{uuid.uuid4().hex}", store.endpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _student(tmp_path / "student", b"weights")


def _student(folder: Path, weights: bytes) -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    (folder / "transformer" / "config.json").write_text("{}")
    return folder


def test_a_published_student_is_listed_and_loaded(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    assert list_students(store) == ([], [])
    url = publish_student(store, "small-1", folder, RECIPE, SCORES)
    assert url == store.url("students/small-1")
    ((student,), _) = list_students(store)
    assert (student.version, student.name, student.nfe) == (2, "small-1", 2)
    assert student.recipe == RECIPE.model_dump(mode="json")
    assert (student.recipe_digest, student.base) == (RECIPE.digest, RECIPE.base)
    assert student.sigmas == RECIPE.student.rungs
    assert student.scores == SCORES
    dest = load_student(store, "small-1", tmp_path / "cache" / "here")
    assert (dest / "transformer" / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((dest / "model.json").read_text())["sigmas"] == RECIPE.student.rungs
    assert [path.name for path in dest.parent.iterdir()] == ["here"]
    assert load_student(store, "small-1", dest) == dest  # there already: verified again
    (dest / "transformer" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"transformer/config\.json is corrupt"):
        load_student(store, "small-1", dest)


def test_a_name_is_published_once(store: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(store, "taken", folder, RECIPE)
    before = list(store.list())
    with pytest.raises(UserError, match="student 'taken' exists in s3://.*choose another name"):
        publish_student(store, "taken", _student(tmp_path / "other", b"other"), RECIPE)
    assert list(store.list()) == before


def test_of_8_publishers_of_a_name_one_wins_and_its_student_is_whole(
    store: Store, tmp_path: Path
) -> None:
    folders = [_student(tmp_path / str(i), b"weights %d" % i) for i in range(8)]

    def publish(folder: Path) -> bool:
        try:
            return bool(publish_student(store, "raced", folder, RECIPE))
        except UserError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(publish, folders))
    assert won.count(True) == 1
    dest = load_student(store, "raced", tmp_path / "dest")
    weights = (dest / "transformer" / "model.safetensors").read_bytes()
    assert weights == b"weights %d" % won.index(True)
    assert len(list(store.list())) == 3  # the losers took their files away


def test_a_half_published_student_is_invisible(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(Exception):
        pass

    def die(*_):
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_bytes_if_absent", die)
        with pytest.raises(Dies):
            publish_student(store, "half", folder, RECIPE)
    assert len(list(store.list("students/half/"))) == 2
    assert list_students(store) == ([], [])
    with pytest.raises(UserError, match="no student 'half'"):
        load_student(store, "half", tmp_path / "dest")
    publish_student(store, "half", folder, RECIPE)  # and the name is still free
    assert [student.name for student in list_students(store)[0]] == ["half"]


@pytest.mark.parametrize("data", [b"weightz", b"weight"])
def test_a_wrong_byte_is_refused_by_name(
    store: Store, folder: Path, tmp_path: Path, data: bytes
) -> None:
    publish_student(store, "bent", folder, RECIPE)
    (key,) = [key for key in store.list() if key.endswith("model.safetensors")]
    store.put_bytes(key, data)
    with pytest.raises(UserError, match=r"transformer/model\.safetensors is corrupt"):
        load_student(store, "bent", tmp_path / "cache" / "dest")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_gone_from_the_bucket_is_named(store: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(store, "gone", folder, RECIPE)
    (key,) = [key for key in store.list() if key.endswith("config.json")]
    store.delete(key)
    with pytest.raises(UserError, match="config.json: there is no such object"):
        load_student(store, "gone", tmp_path / "cache" / "dest")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("path", ["../../evil.json", "/etc/evil.json", "a/../evil.json", "run.py"])
def test_a_manifest_cannot_name_other_files(
    store: Store, folder: Path, tmp_path: Path, path: str
) -> None:
    publish_student(store, "sly", folder, RECIPE)
    manifest = store.get_bytes("students/sly/model.json")
    assert manifest is not None
    store.put_bytes(
        "students/sly/model.json",
        manifest.replace(b"transformer/config.json", path.encode()),
    )
    with pytest.raises(UserError, match="allowed"):
        load_student(store, "sly", tmp_path / "cache" / "dest")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": 2}'])
def test_a_damaged_manifest_is_refused_by_name(store: Store, folder: Path, text: bytes) -> None:
    publish_student(store, "torn", folder, RECIPE)
    publish_student(store, "whole", folder, RECIPE)
    store.put_bytes("students/torn/model.json", text)
    students, faults = list_students(store)
    assert [student.name for student in students] == ["whole"]
    assert [str(fault) for fault in faults] == [fault_of(store, "torn")]


def fault_of(store: Store, name: str) -> str:
    with pytest.raises(CorruptRecord, match=rf"students/{name}/model.json is corrupt \(") as fault:
        read_student(store, name)
    return str(fault.value)


@pytest.mark.parametrize("name", ["model.json", "weights.pt", "pytorch_model.bin", "code.py"])
def test_only_safe_files_are_published(store: Store, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"^{name} cannot be in a student"):
        publish_student(store, "unsafe", folder, RECIPE)
    assert list(store.list()) == []


def test_scores_that_are_not_numbers_are_refused(store: Store, folder: Path) -> None:
    with pytest.raises(ValueError, match="tasks.t2i"):
        PublishedScores(**{**SCORES.model_dump(), "tasks": {"t2i": float("nan")}})


def test_a_student_without_scores_claims_none(store: Store, folder: Path) -> None:
    publish_student(store, "unscored", folder, RECIPE)
    ((student,), _) = list_students(store)
    assert student.scores is None


def test_a_manifest_of_an_earlier_version_is_refused_by_its_number(
    store: Store, folder: Path
) -> None:
    publish_student(store, "old", folder, RECIPE)
    manifest = json.loads(store.get_bytes("students/old/model.json") or b"")
    store.put_bytes("students/old/model.json", json.dumps({**manifest, "version": 1}).encode())
    assert "version 1: Input should be 2" in fault_of(store, "old")


def test_an_existing_folder_is_not_overwritten(store: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(store, "kept", folder, RECIPE)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists and is not this student"):
        load_student(store, "kept", tmp_path / "mine")


def test_a_run_is_claimed_once_and_resumed_with_its_recipe(store: Store) -> None:
    with pytest.raises(UserError, match="no run 'r1' in s3://.*without --resume"):
        open_run(store, "r1")
    record_run(store, "r1", {"name": "r1"}, "aaaa")
    with pytest.raises(UserError, match="run 'r1' exists in .*--resume"):
        record_run(store, "r1", {"name": "r1"}, "aaaa")
    run = open_run(store, "r1")
    assert run == RunRecord(name="r1", recipe_digest="aaaa", recipe={"name": "r1"})
    record_run(store, "r1", {"name": "r1"}, "bbbb", replace=True)
    assert open_run(store, "r1").recipe_digest == "bbbb"
    store.put_bytes("runs/r1/run.json", b"{")
    with pytest.raises(UserError, match="run.json is corrupt"):
        open_run(store, "r1")
