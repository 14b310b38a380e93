"""The file of a shard: safetensors that carry the SHA-256 of their header and of their numbers.

The header is checked when a shard is opened, which reads nothing else; the numbers before the first
of them is used.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from flash_ray.models.base import Layout

_UNKNOWN = "0" * 64
_BLOCK = 2**20
_whole: set[tuple[Path, int, int]] = set()  # files whose numbers this process has checked


class Damaged(Exception):
    """The file is not what was written."""


def write_shard(path: Path, tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Write tensors that share a layout."""
    fields = {"layout": json.dumps(vars(layout)), "data": _UNKNOWN, "header": _UNKNOWN}
    file = save(dict(tensors), metadata=fields)
    start = 8 + int.from_bytes(file[:8], "little")
    header = _with(file[8:start], "data", hashlib.sha256(file[start:]).hexdigest())
    header = _with(header, "header", hashlib.sha256(header).hexdigest())
    with path.open("wb") as out:
        out.write(file[:8])
        out.write(header)
        out.write(file[start:])


def read_layout(path: Path) -> Layout:
    """The layout of a file's tensors; its header is checked.

    Raises:
        Damaged: the header is not what was written.
    """
    layout = json.loads(_fields(path)[0]["layout"])
    layout["references"] = tuple(tuple(size) for size in layout["references"])
    return Layout(**layout)


def check_shard(path: Path) -> None:
    """Check header and numbers, once in this process for each content of the file.

    Raises:
        Damaged: they are not what was written.
    """
    stat = path.stat()
    seen = (path, stat.st_size, stat.st_mtime_ns)
    if seen in _whole:
        return
    fields, start = _fields(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != fields["data"]:
        raise Damaged(str(path))
    _whole.add(seen)


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the checked header, and where the numbers begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise Damaged(str(path))
        header = file.read(length)
    try:
        fields: dict[str, str] = json.loads(header)["__metadata__"]
        written = _with(header, "header", _UNKNOWN, fields["header"])
    except (ValueError, LookupError, TypeError) as error:
        raise Damaged(str(path)) from error
    if hashlib.sha256(written).hexdigest() != fields["header"]:
        raise Damaged(str(path))
    return fields, 8 + length


def _with(header: bytes, field: str, value: str, instead_of: str = _UNKNOWN) -> bytes:
    """The header with another value, of as many letters, in a field."""
    return header.replace(f'"{field}":"{instead_of}"'.encode(), f'"{field}":"{value}"'.encode(), 1)
