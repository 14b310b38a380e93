"""The local sockets of the embedded store: weed makes them in /tmp and leaves some there."""

import os
import re
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path("/tmp")  # weed's own choice, whatever TMPDIR says
_NAME = re.compile(r"seaweedfs-[a-z0-9]+(-grpc)?-\d+\.sock")
_STARTS_S = 0.2  # between the moment when a socket is there and when somebody listens to it


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Removes those of a store that has ended, by its port of each service."""
    for service, port in ports.items():
        for name in (f"{service}-{port}", f"{service}-grpc-{port + 10000}"):
            (FOLDER / f"seaweedfs-{name}.sock").unlink(missing_ok=True)


def remove_dead_sockets(folder: Path = FOLDER) -> None:
    """Removes what this user's stores left that were killed: sockets that nobody listens to."""
    dead = _dead(folder)
    if dead:
        time.sleep(_STARTS_S)
        for path in dead & _dead(folder):
            path.unlink(missing_ok=True)


def _dead(folder: Path) -> set[Path]:
    return {path for path in folder.glob("seaweedfs-*.sock") if _is_dead(path)}


def _is_dead(path: Path) -> bool:
    try:
        found = path.lstat()
        is_own = stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid()
        if not is_own or not _NAME.fullmatch(path.name):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # one that listens and is busy says so, it does not refuse
            probe.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:  # it is busy, or has just gone
        return False
    return False
