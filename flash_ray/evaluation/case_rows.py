"""Reads one row of a benchmark's files as cases: ids, seeds and sizes as it states them or as they
follow from its content, so that neither order nor format of the rows decides anything."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from PIL import Image

from flash_ray.data.pictures import decode_picture
from flash_ray.data.row_pictures import pictures_of
from flash_ray.data.rows import OtherTask, Row, RowFormat, read_row
from flash_ray.data.source import LazyPictures
from flash_ray.data.values import BadRow, number_of, text_of, texts_of, whole_characters
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.inputs import DrawnPictures
from flash_ray.evaluation.pictures import PictureStore
from flash_ray.recipe.schema import Task
from flash_ray.recipe.sizes import Size, follow_aspect, size_problem

MOST_SEED = 2**32 - 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SIZE = re.compile(r"[\[(]?\s*(\d{1,6})\s*[x×,]\s*(\d{1,6})\s*[\])]?")


@dataclass(frozen=True)
class PicturePrompt:
    """What a base draws a picture to edit from.

    Args:
        size: (height, width) in pixels; None: the recipe's resolution.
    """

    prompt: str
    seed: int
    size: Size | None


@dataclass(frozen=True)
class StatedCase:
    """A case as its row states it.

    Args:
        size: (height, width) of the answer in pixels; None: it follows from the first picture and
            the recipe's resolution.
        pictures: encoded, as they were in the file; none for text to image.
        sizes: (height, width) of each, upright, in pixels.
        shown: 32 hex digits that change with the prompt or a picture, or what one is drawn from.
        drawn: what a base draws the pictures to edit from, in place of `pictures`.
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
    drawn: tuple[PicturePrompt, ...] = ()

    def size_at(self, resolution: Size) -> Size:
        """(height, width) of the answer for a recipe of that `data.resolution`."""
        if self.size is not None:
            return self.size
        sizes = self.sizes or [picture.size or resolution for picture in self.drawn]
        return follow_aspect(sizes[0], resolution) if sizes else resolution

    def content_at(self, resolution: Size) -> list[Any]:
        """What decides the answer and the score, as plain data, but for the base that draws the
        pictures to edit."""
        size = list(self.size_at(resolution))
        content = [self.task, self.id, self.category, self.shown, self.text, self.seed, size]
        if not self.drawn:
            return content
        return [*content, [list(picture.size or resolution) for picture in self.drawn]]

    def case_at(self, resolution: Size, kept: PictureStore | None = None) -> Case:
        """The case for a recipe of that `data.resolution`; pictures are decoded when they are
        looked at.

        Args:
            kept: where pictures that a base draws are.
        """
        references: Sequence[Image.Image] = ()
        if self.drawn:
            references = DrawnPictures(tuple(self._asked(resolution)), kept)
        elif self.pictures:
            references = LazyPictures([partial(decode_picture, each) for each in self.pictures])
        return Case(
            self.id,
            self.task,
            self.category,
            self.prompt,
            self.size_at(resolution),
            self.seed,
            references,
            self.text,
        )

    def _asked(self, resolution: Size) -> Iterator[Case]:
        """What the base is asked for its pictures to edit, as cases of text to image."""
        for picture in self.drawn:
            size = picture.size or resolution
            yield Case(self.id, "t2i", self.category, picture.prompt, size, picture.seed)


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
    drawn = _drawn(fields, form, stated)
    if drawn and form.task == "t2i" and form.shared:
        raise OtherTask("with a prompt for a picture to edit, they are edits")
    task = form.task
    if drawn and task == "edit":  # there is no picture to be read
        form = replace(form, task="t2i", shared=False)
    for row in read_row(fields, form, read):
        if row.note:
            raise BadRow("half a character (a lone surrogate) in the prompt")
        yield _case(row, task, stated, drawn if task == "edit" else ())


def _case(
    row: Row, task: Task, stated: Mapping[str, Any], drawn: tuple[PicturePrompt, ...]
) -> StatedCase:
    text, seed = _text(stated.get("text")), _seed(stated.get("seed"), "seed")
    size, shown = _size(stated.get("size"), "size"), row.digest
    if drawn:
        pictures = [[picture.prompt, picture.seed, picture.size] for picture in drawn]
        shown = _digest([row.digest, pictures]).hexdigest()[:32]
    content = [task, row.category, shown, text, seed, size]
    id = _id(stated.get("id")) or _digest(content).hexdigest()[:12]
    if seed is None:
        seed = _derived_seed(id)
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
        shown,
        drawn,
    )


def _drawn(
    fields: Mapping[str, Any], form: RowFormat, stated: Mapping[str, Any]
) -> tuple[PicturePrompt, ...]:
    """What the pictures to edit are drawn from; nothing if the row has pictures, or no prompt for
    any. Rows that state the same prompts and no seed edit the same pictures."""
    prompts = [text.strip() for text in texts_of(stated.get("picture_prompt"), "picture_prompt")]
    has_pictures = pictures_of(fields.get(form.columns.image), lambda path: b"")
    if not any(prompts) or next(has_pictures, None) is not None:
        return ()
    if not all(prompts):
        raise BadRow("empty picture_prompt")
    if any(whole_characters(prompt)[1] for prompt in prompts):
        raise BadRow("half a character (a lone surrogate) in picture_prompt")
    seed = _seed(stated.get("picture_seed"), "picture_seed")
    size = _size(stated.get("picture_size"), "picture_size")
    if seed is None:
        seed = _derived_seed("\n".join(prompts))
    return tuple(PicturePrompt(prompt, seed, size) for prompt in prompts)


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


def _seed(value: Any, field: str) -> int | None:
    number = number_of(value, field)
    if number is None:
        return None
    if number != int(number) or not 0 <= number <= MOST_SEED:
        raise BadRow(f"{field} is no whole number from 0 to {MOST_SEED}", repr(value)[:40])
    return int(number)


def _derived_seed(text: str) -> int:
    return int.from_bytes(_digest(text).digest()[:4]) >> 1


def _size(value: Any, field: str) -> Size | None:
    if isinstance(value, list | tuple):
        value = ",".join(str(number_of(side, field) or 0).removesuffix(".0") for side in value)
    text = text_of(value, field)
    if text is None or not text.strip():
        return None
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise BadRow(f"{field} is not [height, width]", repr(text)[:40])
    size = int(match[1]), int(match[2])
    if problem := size_problem(size):
        raise BadRow(f"{field} cannot be drawn", problem)
    return size


def _digest(content: str | Sequence[Any]) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(content).encode())
