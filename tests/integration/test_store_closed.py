"""The embedded store as another user of the machine meets it: every door of it is shut."""

import http.client
import multiprocessing
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from flash_ray.storage.embedded import BUCKET, embedded_store
from flash_ray.storage.s3 import Store
from flash_ray.storage.security import client_context, write_security

NOBODY = 65534
SECRET = b"only its owner reads this"
KEY = "students/mine/weights"
REQUESTS = [
    *(("GET", path) for path in ("/", f"/{BUCKET}", f"/{BUCKET}/{KEY}", f"/buckets/{BUCKET}/")),
    *(("GET", path) for path in ("/dir/status", "/dir/assign", "/vol/grow?count=1", "/cluster/ps")),
    *(("GET", path) for path in ("/metrics", "/debug/pprof/", "/stats/health", "/1,01637037d6")),
    ("GET", f"/col/delete?collection={BUCKET}"),
    ("GET", "/vol/vacuum?garbageThreshold=0"),
    ("PUT", f"/{BUCKET}/{KEY}"),
    ("POST", f"/buckets/{BUCKET}/{KEY}"),
    ("POST", f"/{BUCKET}?delete"),
    ("POST", "/?Action=CreateUser&UserName=nobody"),
    ("POST", "/?Action=AssumeRole&RoleArn=arn:aws:iam::000000000000:role/admin"),
    ("DELETE", f"/{BUCKET}/{KEY}"),
    ("DELETE", f"/buckets/{BUCKET}/{KEY}?recursive=true"),
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@dataclass(frozen=True)
class Running:
    """A store that holds a secret.

    Args:
        folder: of its own, with the certificate in `security`.
        ports: of each service for HTTP; gRPC's are 10000 higher.
        listening: all of its processes' TCP ports and unix sockets.
    """

    store: Store
    folder: Path
    weed: str
    ports: dict[str, int]
    listening: tuple[list[int], list[str]]

    def attempts(self) -> dict[str, tuple[list[str], str]]:
        """What weed itself offers to read, list, write, back up, delete and administer."""
        filer = f"http://127.0.0.1:{self.ports['filer']}/buckets/{BUCKET}/students"
        where = f"127.0.0.1:{self.ports['master']}"
        shell = ["shell", f"-master={where}", f"-filer=127.0.0.1:{self.ports['filer']}"]
        (volume, *_) = self.folder.glob(f"data/{BUCKET}_*.dat")
        number = volume.stem.rpartition("_")[2]
        backup = ["backup", f"-collection={BUCKET}", f"-volumeId={number}", "-dir=."]
        return {
            "read": (["filer.cat", f"{filer}/mine/weights"], ""),
            "write": (["filer.copy", "evil", f"{filer}/evil/"], ""),
            "back up": ([*backup, f"-server={where}"], ""),
            "list": (shell, f"fs.ls /buckets/{BUCKET}/students\n"),
            "administer": (shell, "volume.list\ncluster.ps\n"),
            "delete": (shell, f"fs.rm -rf /buckets/{BUCKET}/students/mine\n"),
        }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("closed") / "store"
    with embedded_store(folder) as store:
        store.put_bytes(KEY, SECRET)
        server = max(psutil.Process().children(), key=lambda child: child.create_time())
        ports = dict(flag[1:].split(".port=") for flag in server.cmdline() if ".port=" in flag)
        tcp = [c.laddr.port for c in server.net_connections("tcp") if c.status == "LISTEN"]
        unix = [str(c.laddr) for c in server.net_connections("unix") if c.laddr]
        yield Running(
            store, folder, server.exe(), {k: int(v) for k, v in ports.items()}, (tcp, unix)
        )


@pytest.fixture
def lair() -> Iterator[Path]:
    """A folder of the other user's."""
    folder = Path(tempfile.mkdtemp(prefix="lair-"))
    (folder / "evil").write_text("evil")
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def as_nobody(job: Callable[..., object], *args: object) -> object:
    """What job(*args) returns in a process of the other user's."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def work() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        answers.put(job(*args))

    process = context.Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    return answers.get()


def run_weed(
    running: Running, lair: Path, what: str, *options: str, user: int | None = None
) -> bytes:
    """What weed prints, and what it leaves, when it is asked for one of the attempts."""
    arguments, given = running.attempts()[what]
    command = ["timeout", "8", running.weed, "-logtostderr=true", *options, *arguments]
    done = subprocess.run(
        command, input=given.encode(), capture_output=True, cwd=lair, user=user, group=user
    )
    files = [path for path in lair.rglob("*") if path.is_file() and path.name != "evil"]
    return done.stdout + done.stderr + b"".join(path.read_bytes() for path in files)


def test_weed_opens_nothing_to_another_user(running: Running, lair: Path) -> None:
    if as_nobody(os.access, running.weed, os.X_OK) is not True:
        pytest.skip(f"{running.weed} is in a folder that other users cannot enter")
    with ThreadPoolExecutor(3) as pool:
        attempts = {
            what: pool.submit(run_weed, running, lair, what, user=NOBODY)
            for what in running.attempts()
        }
    printed = b"".join(attempt.result() for attempt in attempts.values())
    assert SECRET not in printed and b"mine" not in printed and b"Topology" not in printed
    assert list(running.store.list("students/")) == [KEY]
    assert running.store.get_bytes(KEY) == SECRET


def test_the_same_attempts_succeed_with_the_certificate(running: Running, lair: Path) -> None:
    owner = f"-config_dir={running.folder / 'security'}"
    assert SECRET in run_weed(running, lair, "read", owner)
    assert b"mine" in run_weed(running, lair, "list", owner)
    assert b"Topology" in run_weed(running, lair, "administer", owner)
    assert SECRET in run_weed(running, lair, "back up", owner)
    run_weed(running, lair, "write", owner)
    assert list(running.store.list("students/")) == ["students/evil/evil", KEY]
    run_weed(running, lair, "delete", owner)
    assert list(running.store.list("students/")) == ["students/evil/evil"]
    running.store.delete("students/evil/evil")
    running.store.put_bytes(KEY, SECRET)


def test_no_port_answers_a_stranger(running: Running, tmp_path: Path) -> None:
    write_security(tmp_path / "his")
    own = client_context(tmp_path / "his")  # a certificate, but not the store's
    none = ssl.create_default_context()
    for context in (own, none):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tcp, _ = running.listening
    assert len(tcp) == 10
    answers = as_nobody(_ask_all, tcp, [None, none, own])
    assert answers == []
    assert running.store.get_bytes(KEY) == SECRET


def _ask_all(ports: list[int], ways: list[ssl.SSLContext | None]) -> list[str]:
    """The answers that are no refusal."""
    given = []
    for port in ports:
        for number, way in enumerate(ways):
            for method, path in REQUESTS:
                status, body = _ask(port, way, method, path)
                if status and status < 400:
                    given.append(f"{port} way {number} {method} {path}: {status} {body[:80]!r}")
    return given


def _ask(port: int, way: ssl.SSLContext | None, method: str, path: str) -> tuple[int, bytes]:
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, context=way, timeout=5)
        if way
        else http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    )
    try:
        connection.request(method, path, body=b"evil" if method in ("PUT", "POST") else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def test_no_socket_takes_another_user(running: Running) -> None:
    _, sockets = running.listening
    assert sockets
    assert as_nobody(_connects, sockets) == []
    assert as_nobody(_readable, running.folder) == []


def _connects(paths: list[str]) -> list[str]:
    taken = []
    for path in paths:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                taken.append(path)
    return taken


def _readable(folder: Path) -> list[str]:
    return [str(path) for path in (folder, folder / "data") if os.access(path, os.R_OK)]


def test_a_folder_that_was_open_is_shut(tmp_path: Path) -> None:
    open_folder = Path(tempfile.mkdtemp(prefix="open-"))
    try:
        open_folder.chmod(0o755)
        with embedded_store(open_folder) as store:
            store.put_bytes("a", SECRET)
            assert as_nobody(_files_read, open_folder) == []
    finally:
        shutil.rmtree(open_folder)


def _files_read(folder: Path) -> list[str]:
    """Files of content that can be read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if os.access(path, os.R_OK) and path.stat().st_size]
