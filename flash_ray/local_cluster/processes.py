"""The processes of one local cluster. Every one inherits a variable that names it."""

from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "FLASH_RAY_LOCAL_CLUSTER"  # its value is the cluster's folder
NODE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"  # Ray gives it to a node's processes: the node's id


def processes_of(folder: Path, node: str | None = None) -> list[psutil.Process]:
    """The cluster's processes, or those of one of its nodes (an id)."""
    wanted = {MARK: str(folder)} | ({NODE: node} if node else {})
    return [
        process for process, variables in _environments() if wanted.items() <= variables.items()
    ]


def _environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    for process in psutil.process_iter():
        try:
            yield process, process.environ()
        except psutil.Error:  # another user's, or it has just ended
            continue


def kill_node(folder: Path, node: str) -> None:
    """Ends a node as a power cut does. LookupError if the cluster has no such node."""
    processes = processes_of(folder, node)
    if not processes:
        raise LookupError(f"no node {node} in the cluster of {folder}")
    for process in processes:
        _send(process, "kill")
    psutil.wait_procs(processes, timeout=10)


def end_all(folder: Path, grace_s: float = 10) -> None:
    """Ends the cluster's processes, and those that they start meanwhile, and no others."""
    asked = processes_of(folder)
    for process in asked:
        _send(process, "terminate")
    psutil.wait_procs(asked, timeout=grace_s)
    while left := processes_of(folder):
        for process in left:
            _send(process, "kill")
        psutil.wait_procs(left, timeout=1)


def _send(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        pass  # it has ended by itself
