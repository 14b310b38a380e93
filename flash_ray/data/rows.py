"""Reads one row of a file as training cases, or says why it is none. Pure: bytes in, cases out."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from flash_ray.data.pictures import BadPicture, decode_picture
from flash_ray.data.row_pictures import pictures_of
from flash_ray.data.source import LazyPictures, TrainingCase
from flash_ray.data.values import BadRow, number_of, text_of, texts_of, truth_of, whole_characters
from flash_ray.recipe.schema import Columns, Task

QUOTED = re.compile(r'"[^"]+"|“[^”]+”|„[^“”]+[“”]|«[^»]+»|‘[^’]+’|「[^」]+」')
MEMBERS = "\0members"  # in a row of a tar file: the names of the sample's members
HALVES = "half a character (a lone surrogate) was taken out of the prompt"


class OtherTask(Exception):
    """The row is a case of the other task; the message says which."""


@dataclass(frozen=True)
class RowFormat:
    """How the rows of a task's files are read.

    Args:
        category: of every row; None: the column says it.
        shared: whether the files hold both tasks: rows without a picture are text to image then,
            rows with one are edits.
    """

    columns: Columns
    task: Task
    category: str | None = None
    shared: bool = False


@dataclass(frozen=True)
class Row:
    """A usable row.

    Args:
        pictures: encoded, as they were in the file; none for text to image.
        sizes: (height, width) of each, upright, in pixels.
        note: what was repaired.
    """

    prompt: str
    category: str
    pictures: tuple[bytes, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    subset: str | None = None
    score: float | None = None
    rendered_text: bool = False
    note: str | None = None

    @property
    def digest(self) -> str:
        """32 hex digits that change with what the model is shown: the prompt or a picture."""
        parts = [self.prompt, *(hashlib.sha256(p).hexdigest() for p in self.pictures)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def training_case(self) -> TrainingCase:
        """The case that the row states; its pictures are decoded when they are looked at."""
        pictures = LazyPictures([partial(decode_picture, picture) for picture in self.pictures])
        return TrainingCase(self.prompt, pictures, self.rendered_text)


def read_row(fields: Mapping[str, Any], form: RowFormat, read: Callable[[str], bytes]) -> list[Row]:
    """Checks a row's fields and decodes its pictures once; a case for each of its prompts.

    Args:
        read: gives the bytes at a path as the row states it.

    Raises:
        BadRow: the row is not usable.
        OtherTask: it is a case of the other task.
    """
    columns = form.columns
    prompts = [p for p in map(str.strip, texts_of(fields.get(columns.prompt), "prompt")) if p]
    if not prompts:
        raise BadRow("empty prompt")
    category = form.category or text_of(fields.get(columns.category), "category")
    if not category or not category.strip():
        raise BadRow("no category")
    pictures = _pictures(fields, form, read)
    try:
        sizes = tuple(decode_picture(picture).size[::-1] for picture in pictures)
    except BadPicture as error:
        raise BadRow(str(error), error.detail) from error
    subset = text_of(fields.get(columns.subset), "subset") if columns.subset else None
    score = number_of(fields.get(columns.score), columns.score) if columns.score else None
    rows = []
    for prompt in prompts:
        text, is_repaired = whole_characters(prompt)
        if not text.strip():
            raise BadRow("empty prompt")
        rows.append(
            Row(
                text,
                whole_characters(category.strip())[0],
                pictures,
                sizes,
                subset,
                score,
                _rendered_text(fields, columns, text),
                HALVES if is_repaired else None,
            )
        )
    return rows


def parse_line(text: str) -> dict[str, Any]:
    """A line of a JSONL file.

    Raises:
        BadRow: it is no JSON object.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("not JSON") from error
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _pictures(
    fields: Mapping[str, Any], form: RowFormat, read: Callable[[str], bytes]
) -> tuple[bytes, ...]:
    """A row's pictures if it is an edit, else none."""
    value = fields.get(form.columns.image)
    if form.task == "t2i":
        if form.shared and next(pictures_of(value, lambda path: b""), None) is not None:
            raise OtherTask("with a picture, they are edits")
        return ()
    pictures = tuple(pictures_of(value, read))
    if not pictures:
        if form.shared:
            raise OtherTask("without a picture, they are text to image")
        raise BadRow("no picture", f"found: {', '.join(fields.get(MEMBERS, fields))}"[:200])
    return pictures


def _rendered_text(row: Mapping[str, Any], columns: Columns, prompt: str) -> bool:
    if columns.rendered_text is not None:
        return truth_of(row.get(columns.rendered_text), columns.rendered_text)
    return bool(QUOTED.search(prompt))
