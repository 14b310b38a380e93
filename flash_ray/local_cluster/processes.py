"""The processes of one local cluster: a session of the operating system, and its descendants.

Ray's own `ray stop` ends every Ray of the machine; this ends one.
"""

import os
import time

import psutil

# Ray gives it to the raylet of a node; the value is the node's id.
NODE = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"


def members(session: int) -> set[psutil.Process]:
    """The session's processes that run, and what descends from them (jobs have sessions too)."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found |= {process, *process.children(recursive=True)}
        except (OSError, psutil.Error):  # it has just ended
            continue
    return {process for process in found if _runs(process)}


def kill_node(session: int, node: str) -> None:
    """Ends a node (an id) as a power cut does. LookupError if no such node runs."""
    raylets = [p for p in members(session) if p.name() == "raylet" and _node(p) == node]
    if not raylets:
        raise LookupError(f"no node {node} in the local cluster")
    (raylet,) = raylets
    for process in (raylet, *raylet.children(recursive=True)):
        _send(process, "kill")


def end_all(session: int, grace_s: float = 10) -> None:
    """Ends the cluster's processes, and those that they start meanwhile, and no others."""
    until = time.monotonic() + grace_s
    seen = members(session)
    for process in seen:
        _send(process, "terminate")
    while left := {process for process in seen if _runs(process)}:
        if time.monotonic() > until:
            for process in left:
                _send(process, "kill")
        time.sleep(0.1)
        seen |= members(session)


def _node(raylet: psutil.Process) -> str | None:
    return raylet.environ().get(NODE)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        pass  # it has ended by itself
