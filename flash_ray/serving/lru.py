"""A cache of bounded bytes: the least recently used goes first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Lru(Generic[Value]):
    """Keeps what was used last, up to `most` bytes; not for several threads at once.

    Args:
        most: bytes.
        size: bytes of a value.
    """

    def __init__(self, most: int, size: Callable[[Value], int]):
        self._most, self._size = most, size
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
        while self.bytes > self._most:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= self._size(oldest)
