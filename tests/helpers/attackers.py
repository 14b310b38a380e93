"""Who attacks a server in the tests: strangers that are slow, and pictures that are bombs."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import urlsplit

import psutil
import requests
from PIL import Image

HEADERS = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n"
BODY = HEADERS + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
FIRST_WORDS = {
    "silent": b"",
    "headers": HEADERS + b"X-Slow: ",
    "body": BODY,
}  # then a byte a second


class SlowStrangers:
    """Connections without a token that are opened again as soon as the server ends them."""

    def __init__(self, url: str, count: int):
        self._address = urlsplit(url).netloc.split(":")
        self._count = count
        self.open: Counter[str] = Counter()  # connections by kind
        self.ended = 0  # connections that the server ended
        self._over = False

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Attacks during the block, in a thread of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=[self._attack()])
        self._over = False
        thread.start()
        try:
            yield
        finally:
            self._over = True
            thread.join()
            loop.close()

    async def _attack(self) -> None:
        kinds = list(FIRST_WORDS)
        tasks = [
            asyncio.create_task(self._stranger(kinds[number % len(kinds)], number))
            for number in range(self._count)
        ]
        while not self._over:
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stranger(self, kind: str, number: int) -> None:
        await asyncio.sleep(number / 500)  # 500 a second
        while not self._over:
            try:
                await self._connection(kind)
            except OSError:
                pass
            self.ended += 1
            await asyncio.sleep(1)

    async def _connection(self, kind: str) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        self.open[kind] += 1
        try:
            writer.write(FIRST_WORDS[kind])
            while not reader.at_eof() and not self._over:
                try:
                    await asyncio.wait_for(reader.read(4096), 1)
                except TimeoutError:
                    writer.write(b"x" if kind != "silent" else b"")
        finally:
            self.open[kind] -= 1
            writer.close()


def bomb(side: int = 5000) -> bytes:
    """A PNG of few bytes and many pixels."""
    file = BytesIO()
    Image.new("RGBA", (side, side), (200, 30, 30, 255)).save(file, "PNG", compress_level=9)
    return file.getvalue()


def throw_bombs(url: str, token: str, at_once: int, each: int = 4) -> Counter[int]:
    """Sends edits of bombs, so many at once; how many were answered with which status."""
    file = bomb()

    def throw(_: int) -> int:
        fields = {"model": "teacher", "prompt": "x", "steps": "1"}
        files = [("image[]", ("bomb.png", file, "image/png"))] * each
        headers = {"Authorization": f"Bearer {token}"}
        return requests.post(
            f"{url}/v1/images/edits", data=fields, files=files, headers=headers, timeout=300
        ).status_code

    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(throw, range(at_once)))


class Memory:
    """The resident bytes of a process, watched from a thread."""

    def __init__(self, process: psutil.Process):
        self._process = process
        self.before = self.most = process.memory_info().rss

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keeps the largest of the block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                self.most = max(self.most, self._process.memory_info().rss)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def latencies(url: str, token: str, seconds: float) -> list[float]:
    """Seconds of requests with a token, each by a connection of its own, one after another."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        answer = requests.get(
            f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        found.append(time.perf_counter() - start)
        time.sleep(0.02)
    return found
