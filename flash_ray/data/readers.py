"""The rows of a file of each format, with the place of each, for messages."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

from flash_ray.data.rows import MEMBERS, parse_line
from flash_ray.data.samples import captions, read_samples
from flash_ray.data.values import BadFile, BadRow
from flash_ray.recipe.schema import Columns

if TYPE_CHECKING:
    import pyarrow

    from flash_ray.data.files import FoundFiles

Place = str  # the file, from the source's folder, and where in it
RawRow = dict[str, Any] | BadRow
AT_ONCE = 64  # rows as Python's values: each may hold large pictures
_NOTHING = "__HIVE_DEFAULT_PARTITION__"


def read_rows(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    """The rows of one of a task's files, or why one cannot be read; a broken file's last is a
    `BadFile`."""
    name = path.removeprefix(f"{files.folder}/")
    folders = hive_columns(name)
    try:
        for place, row in _READERS[files.kind](files, path):
            yield (
                f"{name} {place}".rstrip(),
                row if isinstance(row, BadRow) else _joined(row, folders),
            )
    except BadFile as error:
        yield name, error
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        yield name, BadFile("the file cannot be read", " ".join(str(error).split())[:100])


def columns_of(files: "FoundFiles", rows: int) -> tuple[list[str], list[str]]:
    """(the columns of the first file's first rows, the members of its first sample).

    Raises:
        BadRow: there is no row.
    """
    columns: dict[str, None] = {}
    members: list[str] = []
    problem: BadRow | None = None
    if files.kind == "parquet":
        columns = dict.fromkeys(_parquet_columns(files))
    rows = 3 if files.kind == "webdataset" else rows  # each may hold large pictures
    for _, row in islice(read_rows(files, files.paths[0]), rows):
        if isinstance(row, BadRow):
            problem = problem or row
            continue
        members = members or row.get(MEMBERS, [])
        columns |= dict.fromkeys(row)
    if not columns and problem:
        raise problem
    if not columns:
        raise BadRow("no row in it")
    return [name for name in columns if name != MEMBERS], members


def hive_columns(name: str) -> dict[str, str | None]:
    """The columns that a file's folders are named after: kind=style/part-0.parquet has one."""
    pairs = [part.partition("=") for part in name.split("/")[:-1] if "=" in part]
    return {
        unquote(column): None if value == _NOTHING else unquote(value) for column, _, value in pairs
    }


def _joined(row: dict[str, Any], folders: Mapping[str, str | None]) -> RawRow:
    """The row with its folders' columns; they must not contradict it."""
    for column, value in folders.items():
        own = row.get(column)
        if own is not None and str(own) != value:
            return BadRow(
                f"{column} is not what the name of the folder says",
                f"{str(own)[:40]!r} in {column}={value}",
            )
    return {**row, **folders}


def _lines(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    for number, line in enumerate(_text(files, path), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", parse_line(_utf8(line))
        except BadRow as error:
            yield f"line {number}", error


def _json(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    """A list of objects; or lines, whatever the file is called."""
    text = _utf8(_text(files, path).read())
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        yield from _lines(files, path)
        return
    for number, row in enumerate(rows if isinstance(rows, list) else [rows], 1):
        yield f"item {number}", row if isinstance(row, dict) else BadRow("not a JSON object")


def _csv(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    csv.field_size_limit(2**31 - 1)  # of a picture in base64
    with _text(files, path, newline="") as text:
        header = text.readline()
        delimiter = max("\t,;|", key=header.count) if header else ","
        names = next(csv.reader([header], delimiter=delimiter), [])
        reader = csv.DictReader(text, names, delimiter=delimiter, strict=True)
        for row in reader:
            place = f"line {reader.line_num + 1}"
            if None in row:
                yield place, BadRow("more fields than the first line has names")
            elif any("\udc80" <= c <= "\udcff" for value in row.values() for c in value or ""):
                yield place, BadRow("not UTF-8; save the file as UTF-8")
            else:
                yield place, dict(row)


def _parquet(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with files.filesystem.open_input_file(path) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            yield from _numbered(parquet.iter_batches(batch_size=AT_ONCE), parquet.schema_arrow)
    except pyarrow.ArrowException as error:
        raise BadFile("the file cannot be read", " ".join(str(error).split())[:100]) from error


def _arrow(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    """A stream of record batches, as `datasets` saves them."""
    import pyarrow
    import pyarrow.ipc

    try:
        with (
            files.filesystem.open_input_stream(path) as stream,
            pyarrow.ipc.open_stream(stream) as batches,
        ):
            parts = (
                batch.slice(start, AT_ONCE)
                for batch in batches
                for start in range(0, batch.num_rows, AT_ONCE)
            )
            yield from _numbered(parts, batches.schema)
    except pyarrow.ArrowException as error:
        raise BadFile("the file cannot be read", " ".join(str(error).split())[:100]) from error


def _numbered(
    batches: "Iterable[pyarrow.RecordBatch]", schema: "pyarrow.Schema"
) -> Iterator[tuple[Place, RawRow]]:
    """The rows, with the names of labels that `datasets` keeps as numbers."""
    labels, number = _labels(schema), 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for column, names in labels.items():
                if isinstance(value := row.get(column), int) and 0 <= value < len(names):
                    row[column] = names[value]
            yield f"row {number}", row


def _labels(schema: "pyarrow.Schema") -> dict[str, list[str]]:
    """By column, the names of the labels that are numbers there, as `datasets` writes them."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"].items()
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # it says nothing of features
        return {}


def _parquet_columns(files: "FoundFiles") -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with files.filesystem.open_input_file(files.paths[0]) as file:
            names: list[str] = pyarrow.parquet.read_schema(file).names
            return names
    except (pyarrow.ArrowException, OSError) as error:
        raise BadFile(" ".join(str(error).split())[:100]) from error


def _tar(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    with files.filesystem.open_input_stream(path) as stream:
        for name, row in read_samples(stream, files.form.columns):
            yield f"sample {name}", row


def _caption(files: "FoundFiles", path: str) -> Iterator[tuple[Place, RawRow]]:
    columns: Columns = files.form.columns
    try:
        lines = captions(_utf8(_text(files, path).read()))
    except BadRow as error:
        yield "", error
        return
    picture = files.beside[path].removeprefix(f"{files.folder}/")
    yield "", {columns.prompt: lines, columns.image: picture}


_READERS = {
    "jsonl": _lines,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
    "webdataset": _tar,
    "captions": _caption,
}


def _text(files: "FoundFiles", path: str, newline: str | None = None) -> io.TextIOWrapper:
    """The file as text, by its byte order mark; bytes that are no text come as U+DC80..DCFF."""
    with files.filesystem.open_input_stream(path) as head:
        encoding = _encoding(head.read(4))
    stream: IO[bytes] = files.filesystem.open_input_stream(path)
    return io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline=newline)


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if head[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if head[:1] == b"\0" else "utf-8-sig"


def _utf8(text: str) -> str:
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise BadRow("not UTF-8; save the file as UTF-8")
    return text
