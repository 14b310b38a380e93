"""Checkpoint manifests on local folders: what is whole passes, what is not is named."""

from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.storage.manifest import (
    CheckedCheckpoint,
    FileRecord,
    Manifest,
    verify_manifest,
    write_manifest,
)
from flash_ray.trainer.checkpoint import Reader

DIGEST = "0123456789abcdef"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of two workers, merged in one folder as Ray Train does."""
    merged = tmp_path / "merged"
    (merged / "student").mkdir(parents=True)
    for part in (0, 1):
        folder = tmp_path / str(part)
        (folder / "student").mkdir(parents=True)
        (folder / "student" / f"rank_{part}.pt").write_bytes(bytes(range(100)) + bytes([part]))
        write_manifest(folder, DIGEST, 12, {"seen": part * 10}, part=part, parts=2)
        for path in folder.rglob("*"):
            if path.is_file():
                path.rename(merged / path.relative_to(folder))
    return merged


def test_a_whole_checkpoint_tells_its_step_and_extras(checkpoint: Path) -> None:
    (checkpoint / ".metadata.json").write_text("{}")  # Ray's own
    assert verify_manifest(checkpoint, DIGEST) == CheckedCheckpoint(
        step=12, parts=2, extra=({"seen": 0}, {"seen": 10})
    )


def test_a_flipped_byte_is_refused_by_name(checkpoint: Path) -> None:
    path = checkpoint / "student" / "rank_1.pt"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"student/rank_1\.pt is corrupt \(wrong SHA-256\)"):
        verify_manifest(checkpoint, DIGEST)


def test_a_short_file_is_refused_by_name(checkpoint: Path) -> None:
    path = checkpoint / "student" / "rank_0.pt"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"student/rank_0\.pt is corrupt \(100 bytes, not 101\)"):
        verify_manifest(checkpoint, DIGEST)


@pytest.mark.parametrize("name", ["student/rank_0.pt", "manifest-00001.json"])
def test_a_missing_file_is_refused_by_name(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(UserError, match=f"{name} is corrupt .it is missing"):
        verify_manifest(checkpoint, DIGEST)


def test_a_file_nobody_wrote_is_refused_by_name(checkpoint: Path) -> None:
    (checkpoint / "extra.pt").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"extra.pt is corrupt .it is in no manifest"):
        verify_manifest(checkpoint, DIGEST)


def test_another_recipe_is_refused_with_both_digests(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=f"(?s){DIGEST}.*fedcba9876543210.*another name"):
        verify_manifest(checkpoint, "fedcba9876543210")


def test_parts_of_different_steps_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "manifest-00001.json"
    path.write_text(path.read_text().replace('"step": 12', '"step": 11'))
    with pytest.raises(UserError, match=r"manifest-00001.json is corrupt .it is of another step"):
        verify_manifest(checkpoint, DIGEST)


@pytest.mark.parametrize("text", ["", "{}", '{"step": 1}', "[1]"])
def test_a_damaged_manifest_is_refused_by_name(checkpoint: Path, text: str) -> None:
    (checkpoint / "manifest-00000.json").write_text(text)
    with pytest.raises(UserError, match="manifest-00000.json is corrupt"):
        verify_manifest(checkpoint, DIGEST)


def test_a_manifest_cannot_lead_out_of_the_folder(checkpoint: Path) -> None:
    path = checkpoint / "manifest-00000.json"
    path.write_text(path.read_text().replace("student/rank_0.pt", "../0/student/x.pt"))
    with pytest.raises(UserError, match="not a plain relative path"):
        verify_manifest(checkpoint, DIGEST)


def test_a_file_that_was_hashed_while_it_was_written_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "read").write_bytes(b"read")
    (tmp_path / "known").write_bytes(b"known")
    known = {"known": FileRecord(bytes=5, sha256="0" * 64)}
    path = write_manifest(tmp_path, DIGEST, 1, known=known)
    files = Manifest.model_validate_json(path.read_text()).files
    assert list(files) == ["known", "read"] and files["known"] == known["known"]
    with pytest.raises(UserError, match=r"known is corrupt \(wrong SHA-256\)"):
        verify_manifest(tmp_path, DIGEST)


def test_what_others_read_is_checked_by_its_size_alone(checkpoint: Path) -> None:
    path = checkpoint / "student" / "rank_1.pt"
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    verify_manifest(checkpoint, DIGEST, lambda manifest, name: manifest.part == 0)
    with pytest.raises(UserError, match=r"student/rank_1\.pt is corrupt"):
        verify_manifest(checkpoint, DIGEST, lambda manifest, name: manifest.part == 1)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"student/rank_1\.pt is corrupt"):
        verify_manifest(checkpoint, DIGEST, lambda manifest, name: manifest.part == 0)


FILES = {0: ["history.jsonl", "student/part-00000.safetensors"], 1: ["ema-00001.safetensors"]}


def read_by(reader: Reader, parts: int = 2, layout: str = "full 2") -> list[str]:
    manifests = [
        Manifest(recipe_digest=DIGEST, step=1, part=part, parts=parts, files={}, extra=extra)
        for part in range(parts)
        for extra in [{"layout": layout}]
    ]
    return [
        name
        for manifest in manifests
        for name in FILES.get(manifest.part, [f"ema-{manifest.part:05d}.safetensors"])
        if reader.hashes(manifest, name)
    ]


def test_every_worker_hashes_what_it_reads() -> None:
    one_node = [Reader("full 2", rank, 2, rank, 2) for rank in (0, 1)]
    assert [read_by(reader) for reader in one_node] == [FILES[0], FILES[1]]
    two_nodes = [Reader("full 2", rank, 2, 0, 1) for rank in (0, 1)]
    assert read_by(two_nodes[1]) == [FILES[0][0], *FILES[1]]  # the history is another copy
    three = [Reader("full 2", rank, 3, rank, 3) for rank in range(3)]
    assert sorted(name for reader in three for name in read_by(reader)) == sorted(
        FILES[0] + FILES[1]
    )
    # Cut in another way, any part may be read on each node.
    assert read_by(two_nodes[1], layout="full 3") == FILES[0] + FILES[1]
    alone = Reader("full 2")
    assert len(read_by(alone, parts=5)) == 6
