"""Reads one row of a benchmark's files as cases: ids, seeds and sizes as it states them or as they
follow from its content, so that neither order nor format of the rows decides anything."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flash_ray.data.pictures import decode_picture
from flash_ray.data.rows import Row, RowFormat, read_row
from flash_ray.data.source import LazyPictures
from flash_ray.data.values import BadRow, number_of, text_of, texts_of
from flash_ray.evaluation.benchmark import Case
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sizes import Size, follow_aspect, size_problem

MOST_SEED = 2**32 - 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SIZE = re.compile(r"[\[(]?\s*(\d{1,6})\s*[x×,]\s*(\d{1,6})\s*[\])]?")


@dataclass(frozen=True)
class StatedCase:
    """A case as its row states it.

    Args:
        size: (height, width) of the answer in pixels; None: it follows from the first picture and
            the recipe's resolution.
        pictures: encoded, as they were in the file; none for text to image.
        sizes: (height, width) of each, upright, in pixels.
        shown: 32 hex digits that change with the prompt or a picture.
    """

    id: str
    task: Task
    category: str
    prompt: str
    seed: int
    text: str | None
    size: Size | None
    pictures: tuple[bytes, ...]
    sizes: tuple[Size, ...]
    shown: str

    def size_at(self, resolution: Size) -> Size:
        """(height, width) of the answer for a recipe of that `data.resolution`."""
        if self.size is not None:
            return self.size
        return follow_aspect(self.sizes[0], resolution) if self.sizes else resolution

    def content_at(self, resolution: Size) -> list[Any]:
        """What decides the answer and the score, as plain data."""
        size = list(self.size_at(resolution))
        return [self.task, self.id, self.category, self.shown, self.text, self.seed, size]

    def case_at(self, resolution: Size) -> Case:
        """The case for a recipe of that `data.resolution`; pictures are decoded when they are
        looked at."""
        openers = [partial(decode_picture, picture) for picture in self.pictures]
        return Case(
            self.id,
            self.task,
            self.category,
            self.prompt,
            self.size_at(resolution),
            self.seed,
            LazyPictures(openers) if openers else (),
            self.text,
        )


def cases_of(
    fields: Mapping[str, Any],
    form: RowFormat,
    columns: Mapping[str, str],
    read: Callable[[str], bytes],
) -> Iterator[StatedCase]:
    """The cases in a row, one for each of its prompts.

    Args:
        columns: that id, text, seed and size are read from.
        read: gives the bytes at a path as the row states it.

    Raises:
        BadRow: the row is not usable.
        OtherTask: it is a case of the other task.
    """
    stated = {name: fields.get(column) for name, column in columns.items()}
    for row in read_row(fields, form, read):
        if row.note:
            raise BadRow("half a character (a lone surrogate) in the prompt")
        yield _case(row, form.task, stated)


def _case(row: Row, task: Task, stated: Mapping[str, Any]) -> StatedCase:
    text, seed = _text(stated.get("text")), _seed(stated.get("seed"))
    size = _size(stated.get("size"))
    content = [task, row.category, row.digest, text, seed, size]
    id = _id(stated.get("id")) or _digest(content).hexdigest()[:12]
    if seed is None:
        seed = int.from_bytes(_digest(id).digest()[:4]) >> 1
    return StatedCase(
        id,
        task,
        row.category,
        row.prompt,
        seed,
        text,
        size,
        row.pictures,
        row.sizes,
        row.digest,
    )


def _id(value: Any) -> str | None:
    id = (text_of(value, "id") or "").strip()
    if id and not _ID.fullmatch(id):
        raise BadRow("id is no name: 1 to 100 of A-Z a-z 0-9 . _ -", repr(id)[:60])
    return id or None


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        text = " ".join(texts_of(value, "text"))
    else:
        text = text_of(value, "text") or ""
    return text.strip() or None


def _seed(value: Any) -> int | None:
    number = number_of(value, "seed")
    if number is None:
        return None
    if number != int(number) or not 0 <= number <= MOST_SEED:
        raise BadRow(f"seed is no whole number from 0 to {MOST_SEED}", repr(value)[:40])
    return int(number)


def _size(value: Any) -> Size | None:
    if isinstance(value, list | tuple):
        value = ",".join(str(number_of(side, "size") or 0).removesuffix(".0") for side in value)
    text = text_of(value, "size")
    if text is None or not text.strip():
        return None
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise BadRow("size is not [height, width]", repr(text)[:40])
    size = int(match[1]), int(match[2])
    if problem := size_problem(size):
        raise BadRow("size cannot be drawn", problem)
    return size


def _digest(content: str | Sequence[Any]) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(content).encode())
