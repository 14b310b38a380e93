"""The list of what a source's files hold: what choosing among their cases needs to know."""

import io
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

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
