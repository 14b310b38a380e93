"""Published students and runs on a real S3 server: whole or absent, verified, never replaced."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.storage.manifest import open_run, record_run
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import list_students, load_student, publish_student

META = {
    "recipe": {"name": "r", "student": {"steps": 4}},
    "recipe_digest": "0123456789abcdef",
    "base": "miniature",
    "sigmas": [1.0, 0.75, 0.5, 0.25],
    "scores": {"t2i": 4.5},
}


@pytest.fixture
def place(store: Store) -> Store:
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
    place: Store, folder: Path, tmp_path: Path
) -> None:
    assert list_students(place) == []
    url = publish_student(place, "small-1", folder, META)
    assert url == place.url("students/small-1")
    (student,) = list_students(place)
    assert student.name == "small-1" and student.nfe == 4
    assert {field: getattr(student, field) for field in META} == META
    dest = load_student(place, "small-1", tmp_path / "cache" / "here")
    assert (dest / "transformer" / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((dest / "model.json").read_text())["sigmas"] == META["sigmas"]
    assert [path.name for path in dest.parent.iterdir()] == ["here"]
    assert load_student(place, "small-1", dest) == dest  # there already: verified again
    (dest / "transformer" / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"transformer/config\.json is corrupt"):
        load_student(place, "small-1", dest)


def test_a_name_is_published_once(place: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(place, "taken", folder, META)
    before = list(place.list())
    with pytest.raises(UserError, match="student 'taken' exists in s3://.*choose another name"):
        publish_student(place, "taken", _student(tmp_path / "other", b"other"), META)
    assert list(place.list()) == before


def test_of_8_publishers_of_a_name_one_wins_and_its_student_is_whole(
    place: Store, tmp_path: Path
) -> None:
    folders = [_student(tmp_path / str(i), b"weights %d" % i) for i in range(8)]

    def publish(folder: Path) -> bool:
        try:
            return bool(publish_student(place, "raced", folder, META))
        except UserError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(publish, folders))
    assert won.count(True) == 1
    dest = load_student(place, "raced", tmp_path / "dest")
    weights = (dest / "transformer" / "model.safetensors").read_bytes()
    assert weights == b"weights %d" % won.index(True)
    assert len(list(place.list())) == 3  # the losers took their files away


def test_a_half_published_student_is_invisible(
    place: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(Exception):
        pass

    def die(*_):
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_bytes_if_absent", die)
        with pytest.raises(Dies):
            publish_student(place, "half", folder, META)
    assert len(list(place.list("students/half/"))) == 2
    assert list_students(place) == []
    with pytest.raises(UserError, match="no student 'half'"):
        load_student(place, "half", tmp_path / "dest")
    publish_student(place, "half", folder, META)  # and the name is still free
    assert [student.name for student in list_students(place)] == ["half"]


def _tamper(place: Store, key: str, data: bytes) -> None:
    place._client.put_object(Bucket=place.bucket, Key=place._key(key), Body=data)


@pytest.mark.parametrize("data", [b"weightz", b"weight"])
def test_a_wrong_byte_is_refused_by_name(
    place: Store, folder: Path, tmp_path: Path, data: bytes
) -> None:
    publish_student(place, "bent", folder, META)
    (key,) = [key for key in place.list() if key.endswith("model.safetensors")]
    _tamper(place, key, data)
    with pytest.raises(UserError, match=r"transformer/model\.safetensors is corrupt"):
        load_student(place, "bent", tmp_path / "cache" / "dest")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_gone_from_the_bucket_is_named(place: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(place, "gone", folder, META)
    (key,) = [key for key in place.list() if key.endswith("config.json")]
    place.delete(key)
    with pytest.raises(UserError, match="config.json: there is no such object"):
        load_student(place, "gone", tmp_path / "cache" / "dest")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("path", ["../../evil.json", "/etc/evil.json", "a/../evil.json", "run.py"])
def test_a_manifest_cannot_name_other_files(
    place: Store, folder: Path, tmp_path: Path, path: str
) -> None:
    publish_student(place, "sly", folder, META)
    manifest = place.get_bytes("students/sly/model.json")
    assert manifest is not None
    _tamper(
        place,
        "students/sly/model.json",
        manifest.replace(b"transformer/config.json", path.encode()),
    )
    with pytest.raises(UserError, match="allowed"):
        load_student(place, "sly", tmp_path / "cache" / "dest")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"version": 2}'])
def test_a_damaged_manifest_is_refused_by_name(place: Store, folder: Path, text: bytes) -> None:
    publish_student(place, "torn", folder, META)
    _tamper(place, "students/torn/model.json", text)
    with pytest.raises(UserError, match="students/torn/model.json: model.json is corrupt"):
        list_students(place)


@pytest.mark.parametrize("name", ["model.json", "weights.pt", "pytorch_model.bin", "code.py"])
def test_only_safe_files_are_published(place: Store, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"^{name} cannot be in a student"):
        publish_student(place, "unsafe", folder, META)
    assert list(place.list()) == []


def test_scores_that_are_not_numbers_are_refused(place: Store, folder: Path) -> None:
    with pytest.raises(ValueError):
        publish_student(place, "nan", folder, {**META, "scores": {"t2i": float("nan")}})
    assert list(place.list()) == []


def test_an_existing_folder_is_not_overwritten(place: Store, folder: Path, tmp_path: Path) -> None:
    publish_student(place, "kept", folder, META)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists and is not this student"):
        load_student(place, "kept", tmp_path / "mine")


def test_a_run_is_claimed_once_and_resumed_with_its_recipe(place: Store) -> None:
    with pytest.raises(UserError, match="no run 'r1' in s3://.*without --resume"):
        open_run(place, "r1", "aaaa")
    record_run(place, "r1", {"name": "r1"}, "aaaa")
    with pytest.raises(UserError, match="run 'r1' exists in .*--resume"):
        record_run(place, "r1", {"name": "r1"}, "aaaa")
    run = open_run(place, "r1", "aaaa")
    assert run == {"name": "r1", "recipe_digest": "aaaa", "recipe": {"name": "r1"}}
    with pytest.raises(UserError, match="digest aaaa, the recipe given has bbbb; resume with"):
        open_run(place, "r1", "bbbb")
    _tamper(place, "runs/r1/run.json", b"{")
    with pytest.raises(UserError, match="run.json is corrupt"):
        open_run(place, "r1", "aaaa")
