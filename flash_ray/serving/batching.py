"""Joins waiting calls into batches, and keeps what was used last: a cache of bounded bytes."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
LEAST = 256 * 2**20  # bytes


class Lru(Generic[Value]):
    """Keeps what was used last, up to `most` bytes; not for several threads at once.

    Args:
        most: bytes; None: twice the largest value, `LEAST` at least.
        size: bytes of a value.
    """

    def __init__(self, most: int | None, size: Callable[[Value], int]):
        self._most, self._size = LEAST if most is None else most, size
        self._follows = most is None
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The value, now the most recently used, or None."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keeps the value, now the most recently used; what is too large is let go."""
        if key in self._values:
            self.bytes -= self._size(self._values.pop(key))
        self._values[key] = value
        self.bytes += self._size(value)
        if self._follows:
            self._most = max(self._most, 2 * self._size(value))
        while self.bytes > self._most:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= self._size(oldest)


Run = Callable[[Hashable, Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class _Call:
    item: Any
    answer: asyncio.Future
    number: int
    urgent: bool


class Batcher:
    """Runs one batch at a time in a thread of its own, so that the event loop stays free.

    There is no waiting for a batch to fill: an idle device takes a call at once, a busy one finds
    what arrived meanwhile. A call that was cancelled before its batch started is left out of it.

    Args:
        run: answers a batch of items of one key, in order, in the batcher's thread. Of a batch that
            fails each item is run alone, so that an error is that of the call which has it.
        most: items of a batch of a key.
    """

    def __init__(self, run: Run, most: Callable[[Hashable], int]):
        self._run, self._most = run, most
        self._waiting: dict[Hashable, deque[_Call]] = {}
        self._count = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._worker: asyncio.Task | None = None

    async def ask(self, key: Hashable, item: Any, urgent: bool = False) -> Any:
        """The answer to `item`; only calls of one key share a batch, and urgent keys go first."""
        call = _Call(item, asyncio.get_running_loop().create_future(), self._count, urgent)
        self._count += 1
        self._waiting.setdefault(key, deque()).append(call)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await call.answer

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in the batches' thread and waits for it; not for use in an event loop.

        All of a process's torch belongs there: two threads that compute have two OpenMP pools, and
        with more pools than cores each batch takes half as long again.
        """
        return self._thread.submit(function, *arguments).result()

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The same for an event loop; the call waits for the batch that runs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _work(self) -> None:
        while self._waiting:
            key = min(self._waiting, key=lambda key: self._turn(self._waiting[key][0]))
            calls = self._take(key)
            if not calls:
                continue
            if not await self._answer(key, calls):
                for call in calls:  # one bad item is not the others' error
                    await self._answer(key, [call])

    async def _answer(self, key: Hashable, calls: Sequence[_Call]) -> bool:
        """Runs a batch and hands out its answers, or the error if it has but one call."""
        calls = [call for call in calls if not call.answer.done()]
        if not calls:
            return True
        try:
            answers = await self.in_thread(self._run, key, [call.item for call in calls])
        except Exception as error:  # the caller's, whatever it is
            if len(calls) == 1 and not calls[0].answer.done():
                calls[0].answer.set_exception(error)
            return False
        for call, answer in zip(calls, answers, strict=True):
            if not call.answer.done():
                call.answer.set_result(answer)
        return True

    def _turn(self, call: _Call) -> tuple[bool, int]:
        return not call.urgent, call.number

    def _take(self, key: Hashable) -> list[_Call]:
        queue = self._waiting[key]
        calls: list[_Call] = []
        most = self._most(key)
        while queue and len(calls) < most:
            call = queue.popleft()
            if not call.answer.done():
                calls.append(call)
        if not queue:
            del self._waiting[key]
        return calls
