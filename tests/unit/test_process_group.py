"""Workers meet where only they can: in a folder of their own, or at one address of a node."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import psutil

from flash_ray.trainer.process_group import Meeting, meet, open_meeting

SOON = timedelta(seconds=60)


def listening() -> set[tuple[str, int]]:
    connections = psutil.Process().net_connections("tcp")
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def met(host: str) -> tuple[Meeting, set[tuple[str, int]]]:
    """Where two workers have met and hear each other, and what they listen on."""
    before = listening()
    meeting = open_meeting(host)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda rank: meet(meeting, rank, 2, SOON), (0, 1))
    first.set("asked", "one")
    assert second.get("asked") == b"one"
    return meeting, listening() - before


def test_workers_of_one_machine_meet_at_no_port():
    meeting, ports = met("127.0.0.1")
    assert Path(meeting.folder).stat().st_mode & 0o777 == 0o700
    assert ports == set()


def test_workers_of_a_cluster_meet_at_the_address_of_a_node_alone():
    meeting, ports = met("127.0.0.2")
    assert ports == {("127.0.0.2", meeting.port)}
