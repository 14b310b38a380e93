"""The pictures that a row names or holds: paths, bytes, base64, data URIs, lists of these."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from flash_ray.data.values import BadRow

# How the base64 of PNG, JPEG, WebP, GIF, BMP and TIFF begins; a path that did is not this long.
_BASE64 = re.compile(r"(iVBORw0KGgo|/9j/|UklGR|R0lGOD|Qk[0-3]|SUkq|TU0A)[A-Za-z0-9+/\s]{80,}=*\s*")
_DATA_URI = re.compile(r"data:[^,]{0,100},", re.IGNORECASE)


def pictures_of(value: Any, read: Callable[[str], bytes]) -> Iterator[bytes]:
    """The encoded pictures in a row's field, in order.

    Args:
        value: a path, bytes, base64, a data URI, Hugging Face's {bytes, path}, a list of these, or
            nothing.
        read: gives the bytes at a path.

    Raises:
        BadRow: it is none of these, or cannot be read; the message shows no picture.
    """
    if value is None or (isinstance(value, str) and not value.strip()) or value != value:
        return
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield _of_text(value, read)
    elif isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        yield from pictures_of(value.get("bytes") or value["path"], read)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from pictures_of(item, read)
    elif not (isinstance(value, Mapping) and not any(value.values())):
        raise BadRow("the picture is neither a path nor encoded", type(value).__name__)


def _of_text(text: str, read: Callable[[str], bytes]) -> bytes:
    if head := _DATA_URI.match(text):
        if head[0].lower().endswith(";base64,"):
            return _decoded(text[head.end() :])
        return unquote_to_bytes(text[head.end() :])
    if _BASE64.fullmatch(text):
        return _decoded(text)
    try:
        return read(text)
    except (OSError, ValueError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow("a picture cannot be read", shown(text)) from error


def shown(path: str) -> str:
    """A path for a message, shortened."""
    return repr(path if len(path) <= 100 else f"{path[:60]}...{path[-20:]}")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise BadRow("a picture is broken base64") from error
