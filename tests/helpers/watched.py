"""A command of a user that is watched from outside: what it listens on, says and leaves behind."""

import functools
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.helpers.commands import FLASH_RAY, user_environment

LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass
class Watched:
    """A command that has ended.

    Args:
        code: its exit code.
        out, err: what it said.
        open_to_others: (address, port) that any of its processes listened on beyond loopback.
        ports: how many were on loopback.
        left: processes that were still there some seconds later.
        temporary: what it left in TMPDIR, by name.
        token_mode: of Ray's token file.
        folder_modes: of the folders that hold those of Ray, which Ray opens to all.
    """

    code: int = 0
    out: str = ""
    err: str = ""
    open_to_others: set[tuple[str, int]] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    token_mode: int = 0
    folder_modes: set[int] = field(default_factory=set)


def watch(
    words: Sequence[str], folder: Path, stop_at: str = "", number: int = signal.SIGINT
) -> Watched:
    """Runs a command in `folder`, with a home and a TMPDIR of its own, to its end.

    Args:
        stop_at: once it has said this on stderr it gets the signal `number`; "": it ends by itself.
    """
    home, temporary = folder / "home", folder / "t"
    for each in (home, temporary):
        each.mkdir()
    watched, family = Watched(), set[psutil.Process]()
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [FLASH_RAY, *words],
            cwd=folder,
            env=user_environment(home, TMPDIR=str(temporary)),
            stdout=out,
            stderr=err,
            # A job that a shell started in the background ignores SIGINT, and so would it.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
        )
        while process.poll() is None:
            family |= _look(process.pid, watched)
            if stop_at and stop_at in (folder / "err").read_text():
                process.send_signal(number)
                stop_at = ""
            time.sleep(0.5)
    watched.code = process.returncode
    _, living = psutil.wait_procs(list(family), timeout=20)
    watched.left = [each.name() for each in living]
    watched.out, watched.err = ((folder / name).read_text() for name in ("out", "err"))
    watched.temporary = sorted(os.listdir(temporary))
    if (token := home / ".ray" / "auth_token").exists():
        watched.token_mode = token.stat().st_mode & 0o777
    return watched


def _look(pid: int, watched: Watched) -> set[psutil.Process]:
    """Notes what the processes listen on; returns them."""
    try:
        command = psutil.Process(pid)
        family = {command, *command.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
    for process in family:
        try:
            connections = process.net_connections("tcp")
            sessions = re.findall(r"--session-dir=(\S+)", " ".join(process.cmdline()))
            modes = [Path(session).parents[1].stat().st_mode for session in sessions]
        except (psutil.Error, OSError):  # it has just ended
            continue
        watched.folder_modes.update(mode & 0o777 for mode in modes)
        for address in [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]:
            if address.ip in LOOPBACK:
                watched.ports.add(address.port)
            else:
                watched.open_to_others.add((address.ip, address.port))
    return family
