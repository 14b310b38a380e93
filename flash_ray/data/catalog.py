"""The catalog of a source's files: what choosing among their cases needs to know, read by Ray Data once and kept in the store."""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow
import pyarrow.parquet
import ray.data

from flash_ray.data.files import Found, find_files, validate_columns
from flash_ray.data.rows import BadRow, Case, parse_line, parse_sample, read_case
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Columns, Files
from flash_ray.storage.s3 import Store

_SCHEMA = pyarrow.schema(
    {
        "digest": pyarrow.string(),
        "category": pyarrow.string(),
        "length": pyarrow.int64(),
        "sizes": pyarrow.list_(pyarrow.list_(pyarrow.int64())),
        "subset": pyarrow.string(),
        "score": pyarrow.float64(),
        "rendered_text": pyarrow.bool_(),
        "bad": pyarrow.string(),
        "excerpt": pyarrow.string(),
    }
)


@dataclass(frozen=True)
class Entry:
    """What choosing a case needs to know of it; `length` counts the prompt's characters."""

    digest: str
    category: str
    length: int
    sizes: tuple[tuple[int, int], ...]
    subset: str | None
    score: float | None
    rendered_text: bool


@dataclass(frozen=True)
class Index:
    """All rows of a task's files.

    Args:
        entries: of usable rows, by digest: each case once.
        duplicates: rows that repeat a case.
        bad: (reason, excerpt) of the others.
    """

    field: str
    entries: tuple[Entry, ...]
    duplicates: int
    bad: tuple[tuple[str, str], ...]

    def complaints(self) -> list[str]:
        """A line for each kind of unusable row: how many, and the first one."""
        counts = Counter(reason for reason, _ in self.bad)
        first = dict(reversed(self.bad))
        return [
            f"{self.field}: {count} rows skipped: {reason}, e.g. {first[reason]}"
            for reason, count in counts.most_common()
        ]


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """Rows with the fields of an entry, or with `bad` and `excerpt`, as a file; ordered by digest,
    since those who read them end in any order."""
    rows = sorted(rows, key=lambda row: (row.get("digest", ""), row.get("excerpt", "")))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA), buffer)
    return buffer.getvalue()


def from_parquet(field: str, data: bytes) -> Index:
    """The index in a file of `to_parquet`; `field` is the source's, for messages."""
    rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    bad = tuple((row["bad"], row["excerpt"]) for row in rows if row["bad"])
    entries = {row["digest"]: _as_entry(row) for row in rows if not row["bad"]}
    duplicates = len(rows) - len(bad) - len(entries)
    return Index(field, tuple(entries.values()), duplicates, bad)


def _as_entry(row: dict[str, Any]) -> Entry:
    fields = {name: row[name] for name in Entry.__dataclass_fields__}
    return Entry(**{**fields, "sizes": tuple(map(tuple, row["sizes"]))})


FORMAT = "scan-1"  # changes with what an entry says
EXCERPT = 60  # characters of a bad row
CPU = 0.25  # of a core for each reading task: it must fit beside teachers and encoders


def scan(recipe: Recipe, task: str, store: Store) -> Index:
    """The index of a task's files; from the store, unless they have changed.

    Raises:
        UserError: the files cannot be read, lack a column, or have too many unusable rows.
    """
    source = recipe.data.source
    found = find_files(source, task, recipe.runtime.storage.endpoint)
    validate_columns(found, source.columns, task)
    key = index_key(found, source.columns, task)
    data = store.get_bytes(key)
    if data is None:
        data = to_parquet(_rows(found, source.columns, task))
        store.put_bytes_if_absent(key, data)
    index = from_parquet(found.field, data)
    _validate_bad(index, source)
    return index


def index_key(found: Found, columns: Columns, task: str) -> str:
    """Where the index of those files is kept."""
    content = json.dumps([FORMAT, found.digest, task, columns.model_dump()])
    return f"sources/{hashlib.sha256(content.encode()).hexdigest()[:32]}.parquet"


def read_rows(found: Found) -> ray.data.Dataset:
    """The files' rows as Ray Data has them, for `case_of`."""
    paths = list(found.paths)
    options = {"filesystem": found.filesystem, "file_extensions": None, "num_cpus": CPU}
    if found.kind == "jsonl":
        return ray.data.read_text(paths, **options)
    if found.kind == "parquet":
        return ray.data.read_parquet(paths, **options)
    return ray.data.read_webdataset(paths, decoder=None, **options)


def case_of(row: Mapping[str, Any], found: Found, columns: Columns, task: str) -> Case:
    """The case of a row of `read_rows`.

    Raises:
        BadRow: it is not usable.
    """
    if found.kind == "jsonl":
        row = parse_line(row["text"])
    elif found.kind == "webdataset":
        row = parse_sample(row, columns)
    return read_case(row, columns, task, found.picture)


def quietly() -> None:
    """No bars and no logs of Ray Data's own on the user's terminal."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _rows(found: Found, columns: Columns, task: str) -> list[dict[str, Any]]:
    quietly()
    listed = read_rows(found).map(_lister(found, columns, task), num_cpus=CPU)
    return [json.loads(row["entry"]) for row in listed.iter_rows()]


def _lister(found: Found, columns: Columns, task: str) -> Callable[[dict[str, Any]], dict]:
    def list_row(row: dict[str, Any]) -> dict[str, str]:
        # JSON, since blocks whose columns are all null would not fit the others.
        return {"entry": json.dumps(_entry(row, found, columns, task))}

    return list_row


def _entry(row: dict[str, Any], found: Found, columns: Columns, task: str) -> dict[str, Any]:
    try:
        case = case_of(row, found, columns, task)
    except BadRow as bad:
        shown = (
            row["text"] if found.kind == "jsonl" else row.get("__key__", row.get(columns.prompt))
        )
        return {"bad": str(bad), "excerpt": repr(str(shown)[:EXCERPT])}
    entry = Entry(
        case.digest,
        case.category,
        len(case.prompt),
        case.sizes,
        case.subset,
        case.score,
        case.rendered_text,
    )
    return asdict(entry)


def _validate_bad(index: Index, source: Files) -> None:
    rows = len(index.entries) + index.duplicates + len(index.bad)
    if rows == 0:
        raise UserError(f"{index.field}: no rows; allowed: a row or more; give other files")
    if len(index.bad) > source.max_bad * rows:
        worst = index.complaints()[0].partition(": ")[2]
        raise UserError(
            f"{index.field}: {len(index.bad)} of {rows} rows cannot be used ({worst}); allowed: a "
            f"share of {source.max_bad:g} (data.source.max_bad); mend the files or raise it"
        )
