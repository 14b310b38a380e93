"""Which checkpoints of a run are whole: those that are not cost themselves, never another."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_ray.storage.manifest import write_manifest
from flash_ray.storage.records import CorruptRecord
from flash_ray.trainer.resume import SNAPSHOT, forget_latest, keep_whole
from tests.helpers.storage import MemoryStore

HOME = "runs/run/train/"


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    """A run with the checkpoints of two workers after iterations 2 and 4."""
    store = MemoryStore("bucket")
    for iteration in (2, 4):
        for part in (0, 1):
            folder = tmp_path / f"{iteration}-{part}"
            folder.mkdir()
            (folder / f"ema-{part}.pt").write_bytes(b"weights %d" % iteration)
            write_manifest(folder, "0" * 16, iteration, {"weights": "w"}, part=part, parts=2)
            for file in folder.iterdir():
                store.put_file(file, f"{HOME}iteration-{iteration:06d}/{file.name}")
    keep_whole(store, "run")
    return store


def known(store: MemoryStore) -> list[str]:
    snapshot = json.loads(store.objects[HOME + SNAPSHOT])
    names = [result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]]
    assert snapshot["latest_checkpoint_result"]["checkpoint_dir_name"] == names[-1]
    return names


def remove(name: str) -> Callable[[MemoryStore, str], None]:
    return lambda store, folder: store.delete(f"{HOME}{folder}/{name}")


def put(name: str, data: bytes) -> Callable[[MemoryStore, str], None]:
    return lambda store, folder: store.put_bytes(f"{HOME}{folder}/{name}", data)


NO_RECORDS = {
    "empty": b"",
    "cut": b"{",
    "a list": b"[]",
    "null": b"null",
    "no text": b"\xff",
    "without fields": b'{"step": 4}',
    "too deep": b"[" * 100_000,
}
DAMAGES = {
    "weights missing": remove("ema-1.pt"),
    "manifest 0 missing": remove("manifest-00000.json"),
    "manifest 1 missing": remove("manifest-00001.json"),
    "weights short": put("ema-0.pt", b"short"),
    "a file of nobody's": put("strange.pt", b""),
    **{
        f"manifest {part} {name}": put(f"manifest-0000{part}.json", data)
        for part in (0, 1)
        for name, data in NO_RECORDS.items()
    },
}
NO_LISTS = {"empty": b"", "cut": b"{", "a list": b"[]", "a number": b'{"checkpoint_results": 3}'}


def test_whole_checkpoints_stay(store: MemoryStore) -> None:
    before = dict(store.objects)
    keep_whole(store, "run")
    assert store.objects == before and known(store) == ["iteration-000002", "iteration-000004"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("lost, left", [(2, 4), (4, 2)])
def test_a_damaged_checkpoint_costs_itself(
    store: MemoryStore,
    damage: Callable[[MemoryStore, str], None],
    lost: int,
    left: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(store, f"iteration-{lost:06d}")
    keep_whole(store, "run")
    assert known(store) == [f"iteration-{left:06d}"]
    assert f"run run goes on without its checkpoint iteration-{lost:06d}: s3://" in caplog.text
    assert not list(store.list(f"{HOME}iteration-{lost:06d}/"))
    assert len(list(store.list(f"{HOME}iteration-{left:06d}/"))) == 4


@pytest.mark.parametrize("data", NO_LISTS.values(), ids=NO_LISTS.keys())
def test_a_damaged_list_of_checkpoints_is_made_anew(store: MemoryStore, data: bytes) -> None:
    store.objects[HOME + SNAPSHOT] = data
    keep_whole(store, "run")
    assert known(store) == ["iteration-000002", "iteration-000004"]


def test_without_a_whole_checkpoint_nothing_is_removed(store: MemoryStore) -> None:
    for folder in ("iteration-000002", "iteration-000004"):
        remove("ema-0.pt")(store, folder)
    before = dict(store.objects)
    with pytest.raises(CorruptRecord, match="iteration-000004/ema-0.pt is corrupt .it is missing"):
        keep_whole(store, "run")
    assert store.objects == before


def test_a_run_that_was_cut_off_before_its_first_checkpoint_begins_anew(
    store: MemoryStore,
) -> None:
    store.delete(HOME + SNAPSHOT)
    for folder in ("iteration-000002", "iteration-000004"):
        remove("manifest-00001.json")(store, folder)
    keep_whole(store, "run")
    assert store.objects == {}
    keep_whole(store, "run")


def test_content_that_is_damaged_is_known_only_when_it_is_read(store: MemoryStore) -> None:
    fault = CorruptRecord("ema-0.pt", "wrong SHA-256", "use another")
    assert forget_latest(store, "run", fault)
    assert known(store) == ["iteration-000002"]
    assert not forget_latest(store, "run", fault) and known(store) == ["iteration-000002"]
