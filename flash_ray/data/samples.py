"""The samples of a tar file (WebDataset), whose members are named in many ways."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from flash_ray.data.rows import MEMBERS, parse_line
from flash_ray.data.values import BadFile, BadRow
from flash_ray.recipe.schema import Columns

_PICTURE = re.compile(r"png|jpe?g|jfif|webp|bmp|gif|tiff?")
_FIELDS, _CAPTION = "json", ("txt", "caption")
# What a picture to edit is called between its sample's name and its ending: nothing, a number, ...
_INPUT = re.compile(
    r"(input|source|src|image|img|picture|condition|cond|control|reference|ref|original|before)?"
    r"[._-]?\d*",
    re.IGNORECASE,
)


@dataclass
class _Sample:
    """Members that follow one another and belong together, by stem (name without its ending)."""

    members: list[tuple[str, str, bytes]] = field(default_factory=list)  # stem, ending, content

    @property
    def stem(self) -> str:
        """The name that the sample's text has; without one, what the members' names share."""
        named = [stem for stem, ending, _ in self.members if not _PICTURE.fullmatch(ending)]
        return min(named or [stem for stem, _, _ in self.members], key=len)

    def has_room_for(self, stem: str) -> bool:
        """Whether a member of that stem belongs here: one name continues the other by a dot, or
        both continue one, and no text has said what that is."""
        if not self.members or any(_continues(stem, other) for other, _, _ in self.members):
            return not self.members or self._fits_text(stem)
        shared = stem.rpartition(".")[0]
        return bool(shared) and self._fits_text(stem) and _continues(self.members[0][0], shared)

    def _fits_text(self, stem: str) -> bool:
        texts = [other for other, ending, _ in self.members if not _PICTURE.fullmatch(ending)]
        return not texts or any(_continues(stem, text) for text in texts)


def read_samples(
    stream: IO[bytes], columns: Columns
) -> Iterator[tuple[str, dict[str, Any] | BadRow]]:
    """Each sample's name and fields: those of its json member, its txt member as the prompt if
    that has none, and its pictures in the order of their numbers.

    Raises:
        BadFile: it is no tar file, or is cut off.
    """
    sample = _Sample()
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                parts, (stem, _, ending) = name.split("/"), name.rpartition(".")
                if not member.isfile() or any(part.startswith((".", "__")) for part in parts):
                    continue
                content = tar.extractfile(member)
                wanted = _PICTURE.fullmatch(ending.lower()) or ending.lower() in (
                    _FIELDS,
                    *_CAPTION,
                )
                data = content.read() if content and wanted else b""
                stem = stem if "." in parts[-1] else name
                if not sample.has_room_for(stem):
                    yield _fields(sample, columns)
                    sample = _Sample()
                sample.members.append((stem, ending.lower(), data))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadFile("the file cannot be read", " ".join(str(error).split())[:100]) from error
    if sample.members:
        yield _fields(sample, columns)


def _fields(sample: _Sample, columns: Columns) -> tuple[str, dict[str, Any] | BadRow]:
    stem, row = sample.stem, dict[str, Any]()
    pictures: list[tuple[str, bytes]] = []
    texts = []
    for name, ending, data in sample.members:
        role = name.removeprefix(stem).lstrip(".")
        if ending == _FIELDS:
            try:
                row |= parse_line(data.decode("utf-8-sig", "replace"))
            except BadRow as error:
                return stem, error
        elif ending in _CAPTION:
            texts += captions(data.decode("utf-8-sig", "replace"))
        elif _PICTURE.fullmatch(ending):
            pictures.append((role, data))
    if texts:
        row.setdefault(columns.prompt, texts)
    named = [(role, data) for role, data in pictures if _is(role, columns.image)]
    inputs = named or [(role, data) for role, data in pictures if _INPUT.fullmatch(role)]
    if inputs:
        row[columns.image] = [data for _, data in sorted(inputs, key=lambda item: natural(item[0]))]
    row[MEMBERS] = [f"{name.rpartition('/')[2]}.{ending}" for name, ending, _ in sample.members]
    return stem, row


def captions(text: str) -> list[str]:
    """The captions in a text file: one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts names by the numbers in them: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _is(role: str, column: str) -> bool:
    return bool(re.fullmatch(re.escape(column) + r"[._-]?\d*", role, re.IGNORECASE))


def _continues(one: str, other: str) -> bool:
    """Whether one of two names is the other, or the other with a dot and more."""
    short, long = sorted((one, other), key=len)
    return long == short or long.startswith(f"{short}.")
