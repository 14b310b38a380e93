"""Reads one row of a file as a training case, or says why it is none. Pure: bytes in, cases out."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from flash_ray.data.source import LazyPictures, TrainingCase
from flash_ray.recipe.schema import Columns, Task

QUOTED = re.compile(r'"[^"]+"|“[^”]+”|„[^“”]+[“”]|«[^»]+»|‘[^’]+’|「[^」]+」')
PICTURE = re.compile(r"(\d+\.)?(png|jpe?g|webp)")  # members of a WebDataset sample
SMALLEST, LARGEST = 16, 16_384  # pixels of a side


class BadRow(ValueError):
    """The row cannot be used; the message says why, in a few words."""


@dataclass(frozen=True)
class Row:
    """A usable row.

    Args:
        pictures: encoded, as they were in the file; none for text to image.
        sizes: (height, width) of each, upright, in pixels.
    """

    prompt: str
    category: str
    pictures: tuple[bytes, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    subset: str | None = None
    score: float | None = None
    rendered_text: bool = False

    @property
    def digest(self) -> str:
        """32 hex digits that change with what the model is shown: the prompt or a picture."""
        parts = [self.prompt, *(hashlib.sha256(p).hexdigest() for p in self.pictures)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def training_case(self) -> TrainingCase:
        """The case that the row states; its pictures are decoded when they are looked at."""
        pictures = LazyPictures([partial(upright, picture) for picture in self.pictures])
        return TrainingCase(self.prompt, pictures, self.rendered_text)


def read_row(
    row: Mapping[str, Any], columns: Columns, task: Task, read: Callable[[str], bytes]
) -> Row:
    """Checks a row's fields and decodes its pictures once.

    Args:
        read: gives the bytes at a path as the row states it.

    Raises:
        BadRow: the row is not usable.
    """
    prompt = _text(row, columns.prompt, "prompt").strip()
    category = _text(row, columns.category, "category").strip()
    if not prompt:
        raise BadRow("empty prompt")
    if not category:
        raise BadRow("no category")
    score = None if columns.score is None else row.get(columns.score)
    if score is not None and not isinstance(score, int | float):
        raise BadRow(f"{columns.score} is not a number")
    pictures = tuple(_pictures(row.get(columns.image), read)) if task == "edit" else ()
    if task == "edit" and not pictures:
        raise BadRow("no picture")
    subset = None if columns.subset is None else row.get(columns.subset)
    return Row(
        prompt,
        category,
        pictures,
        tuple(upright(picture).size[::-1] for picture in pictures),
        None if subset is None else str(subset),
        None if score is None else float(score),
        _rendered_text(row, columns, prompt),
    )


def upright(data: bytes) -> Image.Image:
    """The picture, decoded whole, turned as its EXIF says.

    Raises:
        BadRow: it cannot be decoded, or a side is out of range.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if not all(SMALLEST <= side <= LARGEST for side in opened.size):
                raise BadRow(f"picture of {opened.width}x{opened.height}")
            return ImageOps.exif_transpose(opened.convert("RGBA" if _clear(opened) else "RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadRow(f"broken picture ({type(error).__name__})") from error
    except (OSError, SyntaxError, ValueError) as error:  # what PIL's decoders raise
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"broken picture ({' '.join(str(error).split())[:60]})") from error


def parse_line(text: str) -> dict[str, Any]:
    """A line of a JSONL file.

    Raises:
        BadRow: it is no JSON object.
    """
    try:
        row = json.loads(text)
    except ValueError as error:
        raise BadRow("not JSON") from error
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def parse_sample(sample: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """A WebDataset sample: the fields of its json member, its txt member as the prompt if that has
    none, and its pictures."""
    # Members that other samples have and this one has not come as None or NaN.
    members = {name: value for name, value in sample.items() if isinstance(value, bytes)}
    row = parse_line(members["json"].decode("utf-8", "replace")) if "json" in members else {}
    if "txt" in members:
        row.setdefault(columns.prompt, members["txt"].decode("utf-8", "replace"))
    if pictures := [members[name] for name in sorted(members) if PICTURE.fullmatch(name)]:
        row[columns.image] = pictures
    return row


def _text(row: Mapping[str, Any], column: str, field: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{field} is not a string")
    return value


def _pictures(value: Any, read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Bytes of a path, of bytes, of Hugging Face's {bytes, path}, or of a list of these."""
    if value is None:
        return
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        try:
            yield read(value)
        except OSError as error:
            raise BadRow(f"picture {value!r} cannot be read") from error
    elif isinstance(value, Mapping) and (value.get("bytes") or value.get("path")):
        yield from _pictures(value.get("bytes") or value["path"], read)
    elif hasattr(value, "__iter__") and not isinstance(value, Mapping):
        for item in value:
            yield from _pictures(item, read)
    else:
        raise BadRow("the picture is neither a path nor encoded bytes")


def _rendered_text(row: Mapping[str, Any], columns: Columns, prompt: str) -> bool:
    if columns.rendered_text is not None:
        return bool(row.get(columns.rendered_text))
    return bool(QUOTED.search(prompt))


def _clear(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info
