"""Damages JSON objects in the ways in which they are found damaged, and in some worse ones."""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import strategies as st

HOSTILE = (
    None,
    True,
    0,
    -1,
    10**40,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "yesterday",
    "../../etc/passwd",
    "<img src=x>",
    "a\nb\x1b[2J",
    "𝔘𝔫𝔦\u202e",
    "x" * 100_000,
    [],
    [0.1, 0.5, 2.0],
    [0.0],
    {},
    {"": {}},
    {"../x.json": {"bytes": 1, "sha256": "0" * 64}},
)
NAMES = ("", "..", "../x", "version", "<img src=x>", "a/b", "__proto__", "\u0000")
VALUES = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)


@cache
def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """Other bytes than `data`, which is JSON: cut, with bits flipped, or with other content."""
    size = len(data)
    cut = st.integers(0, size - 1).map(lambda end: data[:end])
    flipped = st.lists(st.integers(0, 8 * size - 1), min_size=1, max_size=4).map(
        lambda bits: _flipped(data, bits)
    )
    other = VALUES.map(_dumped)
    deep = st.sampled_from((b"[" * 100_000, b'{"a":' * 5_000, b"\xff\xfe{}", b"\x00" * 9, b""))
    changed = st.builds(
        _changed,
        st.just(data),
        st.sampled_from(list(_paths(json.loads(data)))),
        st.sampled_from(("remove", "replace", "rename", "add")),
        VALUES,
        st.sampled_from(NAMES),
    )
    return st.one_of(cut, flipped, other, deep, changed, changed, changed).filter(
        lambda mutated: mutated != data
    )


def _flipped(data: bytes, bits: list[int]) -> bytes:
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value inside."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _changed(data: bytes, path: tuple[Any, ...], how: str, value: Any, name: str) -> bytes:
    whole = json.loads(data)
    parent = whole
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    if how == "remove":
        del parent[key]
    elif how == "replace" or isinstance(parent, list):
        parent[key] = copy.deepcopy(value)
    elif how == "rename":
        parent[name] = parent.pop(key)
    else:
        parent[name] = copy.deepcopy(value)
    return _dumped(whole)
