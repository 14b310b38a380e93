"""Connects a command to Ray: to the cluster of RAY_ADDRESS, or to a local one."""

import fcntl
import logging
import math
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flash_ray.cluster.token import read_token
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe

HOST = "127.0.0.1"
PREFIX, LOCK = "flash-ray-", "lock"  # of a Ray's folder, and its file that a living driver locks
RAYS_FOLDER = "r"  # Ray opens its folder and sockets to all; they are in one that is closed
SOCKET_PATH = 103  # characters that a local socket's path may have, of which Ray takes
RAYS_PART = len("/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.00")
# Ray takes a node for one of a cluster, and listens on all addresses, but where clusters are
# switched off: then it takes the loopback address for the node's own and listens there alone.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def in_cluster_job() -> bool:
    """Whether RAY_ADDRESS names a cluster to connect to, as in a job that was submitted to one."""
    return bool(os.environ.get("RAY_ADDRESS"))


def validate_embedded_in_job(recipe: Recipe) -> None:
    """Raises UserError if this is a job and its cluster's nodes could not reach the run's store."""
    if in_cluster_job():
        validate_embedded(recipe)


def validate_embedded(recipe: Recipe) -> None:
    """Raises UserError if a cluster's nodes could not reach the run's store."""
    if recipe.runtime.storage.url == "embedded":
        raise UserError(
            "runtime.storage.url: 'embedded' in a Ray cluster; allowed: s3://bucket/prefix that "
            "all its nodes can reach, 'embedded' only without RAY_ADDRESS; "
            "set runtime.storage.url=s3://BUCKET/PREFIX"
        )


def validate_shared(store: str | None) -> None:
    """Raises UserError if this is a job, and its cluster's nodes could not reach --store."""
    if in_cluster_job() and not (store or "").startswith("s3://"):
        raise not_shared(store)


def not_shared(store: str | None) -> UserError:
    """The problem with a --store of one machine in a cluster."""
    return UserError(
        f"--store: {store or 'the embedded store'} in a Ray cluster; allowed: s3://bucket/prefix "
        "that all its nodes can reach"
    )


def validate_gpu(recipe: Recipe) -> None:
    """Raises UserError if a Ray of this machine is to run the recipe on GPUs that it has not."""
    if not recipe.runtime.gpu or in_cluster_job():
        return
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "runtime.gpu: true, and torch finds no GPU on this machine; allowed: false here, true "
            "in a job of a cluster with GPUs; set runtime.gpu=false, or see `flash-ray submit`"
        )


@contextmanager
def ray_session(needs: Mapping[str, float]) -> Iterator[None]:
    """Ray for the block: the cluster of RAY_ADDRESS, else a local one.

    Args:
        needs: CPU, trainer and teacher, as `resources.cluster_needs` has them; a local Ray offers
            at least these, however few cores there are.
    """
    import ray  # here, so that the checks above cost nothing

    if not in_cluster_job():
        cpus = max(os.cpu_count() or 1, math.ceil(needs["CPU"]))
        # A teacher for each core: where their number is a range, it may grow to that.
        with local_cluster(cpus, int(needs["trainer"]), max(int(needs["teacher"]), cpus)):
            yield
        return
    with _handlers_kept():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def local_cluster(cpus: int, trainers: int, teachers: int) -> Iterator[None]:
    """A Ray on this machine with the resources that a run asks for; ended with the block.

    Custom resources keep workers and teachers from counting on the same CPUs.
    """
    import ray
    from ray._private import ray_constants

    read_token()  # made by us, for its owner alone: Ray makes one that all may read
    address = f"{HOST}:{free_ports(1)[0]}"
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    with _folder_of_ray() as folder:
        variables = {
            "RAY_GCS_SERVER_PORT": address.rpartition(":")[2],
            "TMPDIR": tempfile.mkdtemp(prefix="tmp-", dir=folder),
            # Ray prints a warning when there are four times as many processes, on two cores eight.
            "RAY_worker_maximum_startup_concurrency": "16",
            **LOOPBACK_ONLY,
        }
        try:
            with _variables(variables), _handlers_kept():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    resources={"trainer": trainers, "teacher": teachers},
                    object_store_memory=512 * 2**20,
                    include_dashboard=True,  # without it Ray Train logs that it is missing
                    dashboard_host=HOST,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    # Ray Train frees what a stopped trial held by asking "the" Ray of the machine,
                    # and fails where there are two, unless it is told which.
                    runtime_env={
                        "env_vars": {"RAY_ADDRESS": address},
                        "worker_process_setup_hook": "flash_ray.cluster.loopback.listen_locally",
                    },
                    _temp_dir=str(folder / RAYS_FOLDER),
                )
            yield
        finally:
            ray.shutdown()
            ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _folder_of_ray() -> Iterator[Path]:
    """A folder for all that a Ray and its processes leave; it goes with the block.

    After an error that is nobody's input it stays, since it has Ray's logs.
    """
    remove_dead_folders()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    if len(str(folder)) + RAYS_PART > SOCKET_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    is_kept = False
    unseen = folder / f"{LOCK}.new"
    with unseen.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unseen.rename(folder / LOCK)
        try:
            yield folder
        except Exception as error:
            if is_kept := not isinstance(error, UserError):
                (folder / LOCK).unlink()
                error.add_note(f"Ray's logs: {folder}/{RAYS_FOLDER}/session_latest/logs")
            raise
        finally:
            if not is_kept:
                _remove(folder)


def remove_dead_folders() -> None:
    """Removes this user's folders of Rays whose driver was killed before it could; one that is in
    use is locked, one that was kept for its logs has no lock."""
    for parent in {tempfile.gettempdir(), "/tmp"}:
        for lock in Path(parent).glob(f"{PREFIX}*/{LOCK}"):
            try:
                if lock.parent.lstat().st_uid != os.getuid():
                    continue
                with lock.open() as held:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(lock.parent)
            except OSError:  # it is in use, or gone
                continue


def _remove(folder: Path) -> None:
    """Removes a folder into which processes that are ending may write still."""
    until = time.monotonic() + 5
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine that nobody listens to, all different.

    They are below those that Linux gives to connections (32768 and up), beside those of Ray's
    workers (10002-19999) and of the embedded store (20000-22767, 30000-32767): what is to listen
    there may take its time to start.
    """
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(23000, 30000), 7000):
        if len(ports) == count:
            return ports
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue  # somebody's
            ports.append(port)
    raise OSError(f"of the ports 23000 to 29999 fewer than {count} are free")


def validate_port(host: str, port: int) -> None:
    """Raises UserError if nothing can listen at --port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"--port: {host}:{port}: {os.strerror(error.errno or 0)}; choose another"
            ) from error


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keeps what the block does from taking SIGTERM over, if the command has a handler of its own.

    Ray's handler ends Ray's processes first, so that nothing can be closed after them. That of its
    C++ core, which Python does not see, prints a stack.
    """
    from ray._private import utils

    set_handler, own = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    is_kept = callable(own) and threading.current_thread() is threading.main_thread()
    if is_kept:
        utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        if is_kept:
            signal.signal(signal.SIGTERM, own)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
