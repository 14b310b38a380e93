"""Gives disk back: the embedded store's volumes keep what was deleted until they are compacted."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_ray.storage.security import ADDRESS, client_context

EVERY_S = 60.0
GARBAGE = 0.3  # a volume is written anew when this share of it was deleted
LAST_S = 30.0  # how long a store that is closed waits for what is being compacted


@contextmanager
def compacted(security: Path, master_port: int, every_s: float = EVERY_S) -> Iterator[None]:
    """Compacts the store's volumes now and then, and once more at the end.

    Args:
        security: the folder that `write_security` filled.
    """
    ended = threading.Event()

    def work() -> None:
        last = False
        while not last:
            last = ended.wait(every_s)
            try:
                compact(security, master_port)
            except (OSError, http.client.HTTPException):
                return  # the server is gone, which whoever uses the store is told

    thread = threading.Thread(target=work, name="compaction", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_S)  # beyond it the server breaks off: it leaves a volume old or new


def compact(security: Path, master_port: int) -> None:
    """Writes those volumes anew of which a share of `GARBAGE` was deleted; returns when done.

    Raises:
        OSError, http.client.HTTPException: the master does not answer.
    """
    connection = http.client.HTTPSConnection(
        ADDRESS, master_port, context=client_context(security), timeout=3600
    )
    try:
        connection.request("GET", f"/vol/vacuum?garbageThreshold={GARBAGE}")
        connection.getresponse().read()
    finally:
        connection.close()
