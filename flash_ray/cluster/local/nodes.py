"""Starts and ends a local cluster and its processes, and asks it which nodes live."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from flash_ray.cluster.local.config import (
    LABEL,
    MEBIBYTE,
    NodeLimits,
    autoscaling_config,
)
from flash_ray.cluster.session import (
    HOST,
    LOOPBACK_ONLY,
    RAYS_FOLDER,
    RAYS_PART,
    SOCKET_PATH,
    free_ports,
    validate_port,
)
from flash_ray.cluster.token import Token, read_token
from flash_ray.errors import UserError
from flash_ray.storage.embedded import LAUNCHER

# Ray gives it to the raylet of a node; the value is the node's id.
NODE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"


def members(session: int) -> set[psutil.Process]:
    """The session's processes that run, and what descends from them (jobs have sessions too)."""
    processes: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                processes |= {process, *process.children(recursive=True)}
        except (OSError, psutil.Error):  # it has just ended
            continue
    return {process for process in processes if _runs(process)}


def kill_node(session: int, node: str) -> None:
    """Ends a node (an id) as a power cut does. LookupError if no such node runs."""
    raylets = [p for p in members(session) if p.name() == "raylet" and _node(p) == node]
    if not raylets:
        raise LookupError(f"no node {node} in the local cluster")
    (raylet,) = raylets
    for process in (raylet, *raylet.children(recursive=True)):
        _send(process, signal.SIGKILL)


def end_all(session: int, grace_s: float = 5) -> None:
    """Ends the cluster's processes, and those that they start meanwhile, and no others."""
    until = time.monotonic() + grace_s
    seen = members(session)
    for process in seen:
        _send(process, signal.SIGTERM)
    while left := {process for process in seen if _runs(process)}:
        if time.monotonic() > until:
            for process in left:
                _send(process, signal.SIGKILL)
        time.sleep(0.1)
        seen |= members(session)


def _node(raylet: psutil.Process) -> str | None:
    return raylet.environ().get(NODE)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, signal_number: int) -> None:
    try:
        process.send_signal(signal_number)
    except psutil.NoSuchProcess:
        pass  # it has ended by itself


CONFIG = "autoscaler.json"


@dataclass(frozen=True)
class Cluster:
    """A local cluster that runs. Everything asks it over HTTP: no `ray.init` is needed."""

    address: str  # for `ray.init` and RAY_ADDRESS
    jobs_url: str  # for `ray job submit --address`
    folder: Path
    token: Token
    session: int  # of the operating system: all its processes are in it, or descend from it

    def environment(self) -> dict[str, str]:
        """The variables with which a process of yours can use the cluster."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.jobs_url,
            **self.token.environment(),
            **LOOPBACK_ONLY,  # else Ray makes another address of the loopback one
        }

    def nodes(self) -> dict[str, str]:
        """The living nodes without the head: id -> type (trainer, teacher or server)."""
        answer = self._get("/api/v0/nodes", 30.0)
        answer.raise_for_status()
        living = (n for n in answer.json()["data"]["result"]["result"] if n["state"] == "ALIVE")
        return {n["node_id"]: n["labels"][LABEL] for n in living if not n["is_head_node"]}

    def kill(self, node: str) -> None:
        """Ends all processes of a node (its id) at once. LookupError if there is none."""
        kill_node(self.session, node)

    def allow(self, limits: NodeLimits) -> None:
        """Sets new limits; the autoscaler ends the nodes beyond them, busy or not."""
        _write_config(limits, self.address, self.folder)

    def ready(self) -> bool:
        """Whether the job server answers."""
        try:
            return self._get("/api/version", 5.0).ok
        except requests.RequestException:
            return False

    def _get(self, path: str, timeout: float) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token.value}"}
        return requests.get(self.jobs_url + path, headers=headers, timeout=timeout)


@contextmanager
def autoscaling_cluster(
    limits: NodeLimits, port: int, deadline_s: float = 120
) -> Iterator[Cluster]:
    """A cluster with its job server at `port`, for the block; call it from the main thread.

    Its processes inherit this one's environment (AWS_* and the like), and end with the block or
    with this process. All that is left is the folder with the logs.

    Raises:
        UserError: the port is taken, memory is short, the token cannot be read, or the cluster
            is not ready in `deadline_s` seconds.
    """
    validate_room(limits, port)
    token = read_token()
    folder = Path(tempfile.mkdtemp(prefix="flash-ray-"))
    head = None
    try:
        _validate_folder(folder)
        address = f"{HOST}:{free_ports(1)[0]}"
        head = _start_head(limits, address, port, folder, token)
        cluster = Cluster(address, f"http://{HOST}:{port}", folder, token, head.pid)
        _await_ready(cluster, head, deadline_s)
        yield cluster
    finally:
        if head is not None:
            end_all(head.pid)
            head.wait()
        _keep_logs(folder)


def _write_config(limits: NodeLimits, address: str, folder: Path) -> None:
    """Replaces the autoscaler's file by a whole one: it is read anew every second."""
    partial = folder / f"{CONFIG}.partial"
    partial.write_text(json.dumps(autoscaling_config(limits, address)))
    partial.replace(folder / CONFIG)


def _start_head(
    limits: NodeLimits, address: str, port: int, folder: Path, token: Token
) -> subprocess.Popen[bytes]:
    """Starts `ray start --head`, which starts the rest and waits."""
    _write_config(limits, address, folder)
    host, _, gcs = address.rpartition(":")
    client, autoscaler_metrics, dashboard_metrics = free_ports(3)
    options = {
        "node-ip-address": host,
        "port": gcs,
        "dashboard-host": HOST,
        "dashboard-port": port,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 0,
        "object-store-memory": limits.object_store_mib * MEBIBYTE,
        "temp-dir": folder / RAYS_FOLDER,
        "autoscaling-config": folder / CONFIG,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--{name}={value}" for name, value in options.items()]
    ports = {
        "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
    }
    temporary = tempfile.mkdtemp(prefix="tmp-", dir=folder)
    with (folder / "head.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-ISc", LAUNCHER, str(os.getpid()), *command, "--disable-usage-stats"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**_environment(), **token.environment(), **ports, "TMPDIR": temporary},
            start_new_session=True,  # marks its processes; and Ctrl-C is ours
        )


def _environment() -> dict[str, str]:
    """This process's variables, and those that Ray's autoscaler wants for nodes on one machine."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    return {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **LOOPBACK_ONLY,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,  # by it the autoscaler knows the head
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


def _await_ready(cluster: Cluster, head: subprocess.Popen[bytes], deadline_s: float) -> None:
    until = time.monotonic() + deadline_s
    while not cluster.ready():
        if head.poll() is not None or time.monotonic() > until:
            lines = (cluster.folder / "head.log").read_text(errors="replace").split("\n")
            tail = " | ".join(line.strip() for line in lines if line.strip())[-600:]
            raise UserError(
                f"the cluster did not start (logs: {cluster.folder}); the end of head.log: {tail}"
            )
        time.sleep(0.2)


def _keep_logs(folder: Path) -> None:
    """Leaves in `folder` its logs alone."""
    for session in folder.glob(f"{RAYS_FOLDER}/session_2*"):
        (session / "logs").rename(folder / "logs")
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name != "logs":
                shutil.rmtree(path)
        elif path.name != "head.log":
            path.unlink()


def validate_room(limits: NodeLimits, port: int) -> None:
    """Raises UserError if the port is taken, or the nodes' object stores do not fit the memory."""
    validate_port(HOST, port)
    nodes = 1 + sum(limits.most.values())
    needed, free = nodes * limits.object_store_mib, psutil.virtual_memory().available // MEBIBYTE
    if needed > free:
        raise UserError(
            f"--object-store-mib: {nodes} nodes with {limits.object_store_mib} MiB need {needed} "
            f"MiB, {free} are free; lower it, or --trainers, --teachers, --servers"
        )


def _validate_folder(folder: Path) -> None:
    if len(str(folder)) + RAYS_PART > SOCKET_PATH:
        raise UserError(
            f"TMPDIR: {folder.parent} is too long a path for Ray's local sockets; allowed: "
            f"{SOCKET_PATH - RAYS_PART - len(folder.name) - 1} characters; set TMPDIR to another"
        )
