"""The workers' process group, closed to who is not one of them.

PyTorch's rendezvous is a server without a login that Ray Train has listen on every interface. Here
the workers of one machine meet in a file of their owner's, and those of a cluster at a port of
rank 0's address alone.
"""

import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Meeting:
    """Where the workers meet.

    Args:
        host, port: rank 0's; port 0: at no port, but in `folder`.
        folder: of all workers, which are on one machine; "": at the port.
    """

    host: str
    port: int = 0
    folder: str = ""


@dataclass
class ProcessGroupConfig(TorchConfig):
    """Ray Train's TorchConfig, but for where the workers meet."""

    @property
    def backend_cls(self) -> type["_ClosedBackend"]:
        return _ClosedBackend


class _ClosedBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Joins the workers; raises what torch does, also when one does not come in time."""
        meeting = worker_group.execute_single(0, open_meeting)
        worker_group.execute(_set_torch_distributed_env_vars)
        size = len(worker_group)
        rest = (size, backend_config.backend, timedelta(seconds=backend_config.timeout_s))
        ray.get(
            [
                worker_group.execute_single_async(rank, join, meeting, rank, *rest)
                for rank in range(size)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        super().on_shutdown(worker_group, backend_config)
        worker_group.execute_single(0, _close)


_listeners: list[socket.socket] = []  # rank 0's, until its store has it
_folders: list[str] = []  # rank 0's, until the group ends


def open_meeting(host: str = "") -> Meeting:
    """Where the workers are to meet; rank 0 calls it.

    Args:
        host: rank 0's address; "": that of its node in Ray.
    """
    host = host or ray.util.get_node_ip_address()
    if host == LOOPBACK:  # then all nodes are this machine
        _folders.append(tempfile.mkdtemp(prefix="group-"))
        return Meeting(host, folder=_folders[-1])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    _listeners.append(socket.create_server((host, 0), family=family, backlog=1024))
    return Meeting(host, port=_listeners[-1].getsockname()[1])


def meet(meeting: Meeting, rank: int, size: int, timeout: timedelta) -> dist.Store:
    """The store through which the workers find each other; waits for all of them at a port.

    Raises:
        torch.distributed.DistStoreError: they did not come within the timeout.
    """
    if meeting.folder:
        store = dist.FileStore(f"{meeting.folder}/store", size)
        store.set_timeout(timeout)
        return store
    listener = _listeners.pop().detach() if rank == 0 else None
    return dist.TCPStore(
        meeting.host, meeting.port, size, rank == 0, timeout, master_listen_fd=listener
    )


def join(meeting: Meeting, rank: int, size: int, backend: str, timeout: timedelta) -> None:
    """Initializes torch.distributed on this worker; a collective."""
    # DeepSpeed looks for MPI where these are missing.
    os.environ.update(MASTER_ADDR=meeting.host, MASTER_PORT=str(meeting.port))
    if meeting.folder:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback_interface())
    store = meet(meeting, rank, size, timeout)
    dist.init_process_group(backend, timeout=timeout, world_size=size, rank=rank, store=store)


def _close() -> None:
    """On rank 0: removes the folder."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _loopback_interface() -> str:
    """The name of the interface that has 127.0.0.1."""
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(each.address == LOOPBACK for each in addresses)
    )
