"""The file of a shard: safetensors that carry the SHA-256 of their header and of their numbers.

The header is checked when a shard is opened, which reads nothing else; the numbers before the first
of them is used. A shard's negative conditions may lie in a file that it shares with others.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from flash_ray.models.base import Layout

_UNKNOWN = "0" * 64
_BLOCK = 2**20
_whole: set[tuple[Path, int, int]] = set()  # files whose numbers this process has checked


class Damaged(Exception):
    """The file is not what was written."""


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors.

    Args:
        layout: theirs.
        negative: the name of the file with the negative conditions; "" if they are in this one.
    """

    layout: Layout
    negative: str = ""


def write_shard(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write tensors that share a layout."""
    about = {"layout": json.dumps(vars(header.layout)), "negative": header.negative}
    fields = {**about, "data": _UNKNOWN, "header": _UNKNOWN}
    file = save(dict(tensors), metadata=fields)
    start = 8 + int.from_bytes(file[:8], "little")
    written = _with(file[8:start], "data", hashlib.sha256(file[start:]).hexdigest())
    written = _with(written, "header", hashlib.sha256(written).hexdigest())
    with path.open("wb") as out:
        out.write(file[:8])
        out.write(written)
        out.write(file[start:])


def read_header(path: Path) -> Header:
    """What a file says of its tensors, checked.

    Raises:
        Damaged: the header is not what was written.
    """
    fields, _ = _fields(path)
    layout = json.loads(fields["layout"])
    layout["references"] = tuple(tuple(size) for size in layout["references"])
    return Header(Layout(**layout), fields["negative"])


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
