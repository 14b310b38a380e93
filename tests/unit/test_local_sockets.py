"""Sockets of stores that were killed are removed, and nothing else is."""

import os
import socket
from contextlib import closing
from pathlib import Path

from flash_ray.storage.local_sockets import remove_dead_sockets, remove_sockets


def bound(path: Path, listens: bool = True) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    if listens:
        made.listen(0)
    return made


def test_only_what_nobody_listens_to_goes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    bound(Path("seaweedfs-s3-20001.sock")).close()
    bound(Path("seaweedfs-s3-grpc-30001.sock"), listens=False).close()
    bound(Path("seaweedfs-mine.sock")).close()
    bound(Path("other-20001.sock")).close()
    Path("seaweedfs-filer-20002.sock").write_text("a file")
    Path("seaweedfs-filer-20003.sock").symlink_to("other-20001.sock")
    with (
        closing(bound(Path("seaweedfs-master-20004.sock"))) as alive,
        closing(socket.socket(socket.AF_UNIX)) as caller,
    ):
        caller.connect("seaweedfs-master-20004.sock")  # its queue is full
        before = {path.name for path in tmp_path.iterdir()}
        remove_dead_sockets(tmp_path)
        gone = before - {path.name for path in tmp_path.iterdir()}
        assert gone == {"seaweedfs-s3-20001.sock", "seaweedfs-s3-grpc-30001.sock"}
        assert alive.fileno() > 0


def test_what_belongs_to_another_user_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bound(Path("seaweedfs-s3-20001.sock")).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_dead_sockets(tmp_path)
    assert Path("seaweedfs-s3-20001.sock").exists()


def test_a_store_that_ends_removes_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("flash_ray.storage.local_sockets.FOLDER", tmp_path)
    for name in ("s3-20001", "s3-grpc-30001", "s3-20002"):
        (tmp_path / f"seaweedfs-{name}.sock").touch()
    remove_sockets({"s3": 20001, "filer": 20003})
    assert [path.name for path in tmp_path.iterdir()] == ["seaweedfs-s3-20002.sock"]
