"""What commands leave: refused before the work, or there in whole; an earlier result is kept."""

import os
from pathlib import Path

import pytest

from flash_ray.errors import UserError
from flash_ray.storage.outputs import new_folder, validate_file, validate_folder, write_whole


class Stopped(BaseException):
    """Ends a block as a signal does."""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("there.json", "there.json exists; .*--force"),
        ("folder", "folder is no file"),
        ("none/new.json", "there is no folder .*none"),
        ("there.json/new.json", "there is no folder"),
        ("/proc/new.json", "/proc: .*; allowed: a place that can be written"),
        ("/dev/null", "/dev/null is no file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, path, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.json").write_text("mine")
    before = names(tmp_path)
    with pytest.raises(UserError, match=f"^--out: .*{says}"):
        validate_file("--out", tmp_path / path)
    validate_file("--out", tmp_path / "there.json", force=True)
    validate_file("--out", tmp_path / "new.json")
    assert names(tmp_path) == before


def test_force_replaces_a_file_and_no_device():
    with pytest.raises(UserError, match="/dev/null is no file"):
        validate_file("--out", Path("/dev/null"), force=True)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("there.json", "there.json is no folder"),
        ("there.json/new", "Not a directory; allowed: a place that can be written"),
        ("/proc/new", "/proc: "),
        ("/dev/null/new", "/dev/null: Not a directory"),
        (".", "the current folder is in it"),
        ("/proc", "is a mount point"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("mine")
    with pytest.raises(UserError, match=f"^--out: .*{says}"):
        validate_folder("--out", tmp_path / path)
    validate_folder("--out", tmp_path / "a" / "new folder with spaces, ü")
    assert names(tmp_path) == ["there.json"]


def test_a_folder_takes_the_place_of_another_only_when_it_is_whole(tmp_path):
    out = tmp_path / "deep" / "demo"
    with new_folder(out) as folder:
        (folder / "result").write_text("first")
        assert not out.exists()
    with pytest.raises(Stopped), new_folder(out) as folder:
        (folder / "result").write_text("half")
        assert (out / "result").read_text() == "first"
        raise Stopped
    assert (out / "result").read_text() == "first"
    with new_folder(out) as folder:
        (folder / "other").write_text("second")
    assert names(out) == ["other"] and names(out.parent) == ["demo"]


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    write_whole(file, "first")
    link = tmp_path / "link.json"
    link.symlink_to(file)
    write_whole(link, b"second")
    assert link.is_symlink() and file.read_text() == "second"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "third")
    assert file.read_text() == "second" and names(tmp_path) == ["link.json", "result.json"]
