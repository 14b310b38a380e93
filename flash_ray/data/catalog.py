"""The catalog of a source's files: Ray Data reads all rows once, the store keeps what they hold."""

import hashlib
import io
import json
import logging
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import ray
import ray.data

from flash_ray.data.readers import RawRow, read_rows
from flash_ray.data.rows import OtherTask, Row, read_row
from flash_ray.data.samples import natural
from flash_ray.data.source import READ_CPUS, Entry, Shard, ShardCases
from flash_ray.data.values import BadFile, BadRow
from flash_ray.errors import UserError
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from flash_ray.data.files import FoundFiles

FORMAT = "scan-2"  # changes with what an entry says
ROWS = 64  # that one task checks: decoding their pictures is the work
CHUNK = 256  # files of captions that one task reads
BROKEN = "the file cannot be read"
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
        "note": pyarrow.string(),
        "place": pyarrow.string(),
        "detail": pyarrow.string(),
    }
)


@dataclass(frozen=True)
class Remark:
    """What is to be said of a row: what kind of thing, where, and what of this row alone."""

    kind: str
    place: str
    detail: str

    @property
    def where(self) -> str:
        """The place with the detail, for messages."""
        return f"{self.place} ({self.detail})" if self.detail else self.place


@dataclass(frozen=True)
class FileCatalog:
    """All rows of a task's files.

    Args:
        field: of the recipe, for messages.
        usable: the entries of usable rows: each case once in each category.
        duplicates: how many rows repeat a case of their category.
        bad: the rows that cannot be used, in order.
        notes: about rows that are used or left out for a good reason, in order.
        left_aside: lines about files that are not read.
    """

    field: str
    usable: tuple[Entry, ...]
    duplicates: int
    bad: tuple[Remark, ...]
    notes: tuple[Remark, ...] = ()
    left_aside: tuple[str, ...] = ()

    @property
    def categories(self) -> Sequence[str]:
        """The categories of usable rows, in alphabetical order."""
        return sorted(self._by_category)

    @property
    def complaints(self) -> Sequence[str]:
        """A line for each kind of row that is not simply used: how many, and the first one."""
        skipped = [f"{n} rows skipped: {of_kind}" for n, of_kind in _by_kind(self.bad)]
        noted = [f"{n} rows: {of_kind}" for n, of_kind in _by_kind(self.notes)]
        return [f"{self.field}: {line}" for line in (*skipped, *noted)] + [*self.left_aside]

    def count(self, category: str) -> int:
        """How many different cases the category has."""
        return len(self._by_category.get(category, ()))

    def entries(self, category: str, start: int = 0) -> Sequence[Entry]:
        """The category's cases by digest: any order of rows and files gives the same."""
        return self._by_category.get(category, ())[start:]

    @cached_property
    def _by_category(self) -> dict[str, list[Entry]]:
        table: dict[str, list[Entry]] = {}
        for entry in sorted(self.usable, key=lambda entry: entry.digest):
            table.setdefault(entry.category, []).append(entry)
        return table


def scan(files: "FoundFiles", max_bad: float, store: Store) -> FileCatalog:
    """The catalog of a task's files; from the store, unless they have changed.

    Args:
        max_bad: the largest share of rows that cannot be used, 0 to 1.

    Raises:
        UserError: too many rows cannot be used, a file is broken, or there are no rows.
    """
    key = catalog_key(files)
    data = store.get_bytes(key)
    if data is None:
        data = to_parquet(_list_rows(files))
        store.put_bytes_if_absent(key, data)
    catalog = from_parquet(files.field, data, files.left_aside)
    _validate_bad(catalog, max_bad)
    return catalog


def catalog_key(files: "FoundFiles") -> str:
    """The key under which the store keeps the catalog of those files."""
    form = asdict(files.form) | {"columns": files.form.columns.model_dump()}
    content = json.dumps([FORMAT, files.digest, form])
    return f"sources/{hashlib.sha256(content.encode()).hexdigest()[:32]}.parquet"


def read_shards(files: "FoundFiles", shards: Sequence[Shard]) -> ray.data.Dataset:
    """Rows {"shard": ShardCases}: the shards, of one case each, whose case is in the files."""
    quiet_ray_data()
    wanted = ray.put({case: shard for shard in shards for case in shard.cases})

    def pick(row: Mapping[str, Any]) -> list[dict[str, ShardCases]]:
        _, raw = pickle.loads(row["row"])
        try:
            cases = cases_of(raw, files)
        except (BadRow, OtherTask):  # counted when the files were listed
            return []
        found = [(ray.get(wanted).get(case.digest), case) for case in cases]
        return [{"shard": ShardCases(shard, (c.training_case(),))} for shard, c in found if shard]

    return _read_rows(files).flat_map(pick, num_cpus=READ_CPUS)


def read_prompts(files: "FoundFiles", shards: Sequence[Shard]) -> Iterator[str]:
    """The prompts of the shards' cases that are in the files, as they are read."""
    quiet_ray_data()
    wanted = ray.put({case for shard in shards for case in shard.cases})

    def pick(row: Mapping[str, Any]) -> list[dict[str, str]]:
        _, raw = pickle.loads(row["row"])
        try:
            cases = cases_of(raw, files)
        except (BadRow, OtherTask):
            return []
        return [{"prompt": case.prompt} for case in cases if case.digest in ray.get(wanted)]

    rows = _read_rows(files).flat_map(pick, num_cpus=READ_CPUS)
    return (row["prompt"] for row in rows.iter_rows())


def cases_of(raw: RawRow, files: "FoundFiles") -> list[Row]:
    """The cases in a row of the files.

    Raises:
        BadRow: it is not usable.
        OtherTask: it is a case of the other task.
    """
    if isinstance(raw, BadRow):
        raise raw
    return read_row(raw, files.form, files.picture)


def listing_of(place: str, raw: RawRow, files: "FoundFiles") -> list[dict[str, Any]]:
    """A row as the catalog keeps it: fields of entries, or of a remark, with the place."""
    try:
        cases = cases_of(raw, files)
    except OtherTask as other:
        return [{"note": str(other), "place": place}]
    except BadRow as bad:
        kind = BROKEN if isinstance(bad, BadFile) else str(bad)
        return [{"bad": kind, "place": place, "detail": bad.detail}]
    entries = [
        Entry(
            id=case.digest,
            digest=case.digest,
            category=case.category,
            length=len(case.prompt),
            sizes=case.sizes,
            subset=case.subset,
            score=case.score,
            rendered_text=case.rendered_text,
        )
        for case in cases
    ]
    return [
        {**asdict(entry), "note": case.note, "place": place}
        for entry, case in zip(entries, cases, strict=True)
    ]


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """A file of rows as `listing_of` gives them, ordered by their places: those who read the files
    end in any order."""
    rows = sorted(rows, key=lambda row: (natural(row["place"]), row.get("digest") or ""))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA), buffer)
    return buffer.getvalue()


def from_parquet(field: str, data: bytes, left_aside: Sequence[str] = ()) -> FileCatalog:
    """The catalog in a file of `to_parquet`; `field` is the source's, for messages.

    Raises:
        UserError: it is no such file.
    """
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _not_a_catalog(field) from error
    if table.schema != _SCHEMA:  # columns of Ray's own types would be unpickled below
        raise _not_a_catalog(field)
    rows = table.to_pylist()
    bad = [_remark(row, row["bad"]) for row in rows if row["bad"]]
    notes = [_remark(row, row["note"]) for row in rows if row["note"]]
    entries: dict[tuple[str, str], Entry] = {}
    categories: dict[str, str] = {}  # the first one of each case
    duplicates = 0
    for row in rows:
        if not row["digest"]:
            continue
        key = row["category"], row["digest"]
        if key in entries:
            duplicates += 1
            notes.append(_remark(row, "they repeat an earlier one and count once"))
            continue
        entries[key] = _entry_of(row)
        if categories.setdefault(row["digest"], row["category"]) != row["category"]:
            notes.append(_remark(row, "they are in another category too and count in both"))
    usable = tuple(entries.values())
    return FileCatalog(field, usable, duplicates, tuple(bad), tuple(notes), tuple(left_aside))


def _not_a_catalog(field: str) -> UserError:
    return UserError(
        f"{field}: the store's list of its rows (sources/*.parquet) is not as flash_ray writes it; "
        "remove that object, and it is made anew"
    )


def quiet_ray_data() -> None:
    """Keep bars and logs of Ray Data off the user's terminal."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def _read_rows(files: "FoundFiles") -> ray.data.Dataset:
    """Rows {"row": pickled (place, raw row)}: Arrow's columns would not fit rows that differ."""
    size = CHUNK if files.kind == "captions" else 1
    chunks = [files.paths[start : start + size] for start in range(0, len(files.paths), size)]

    def read(chunk: Mapping[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        for path in chunks[int(chunk["id"][0])]:
            for place_and_row in read_rows(files, path):
                yield {"row": [pickle.dumps(place_and_row)]}

    numbers = ray.data.range(len(chunks), override_num_blocks=len(chunks))
    rows = numbers.map_batches(read, batch_size=1, batch_format="numpy", num_cpus=READ_CPUS)
    return rows.repartition(target_num_rows_per_block=ROWS)


def _list_rows(files: "FoundFiles") -> list[dict[str, Any]]:
    quiet_ray_data()

    def list_row(row: Mapping[str, Any]) -> list[dict[str, str]]:
        place, raw = pickle.loads(row["row"])
        # JSON, since blocks whose columns are all null would not fit the others.
        return [{"entry": json.dumps(e)} for e in listing_of(place, raw, files)]

    listed = _read_rows(files).flat_map(list_row, num_cpus=READ_CPUS)
    return [json.loads(row["entry"]) for row in listed.iter_rows()]


def _by_kind(remarks: Sequence[Remark]) -> list[tuple[int, str]]:
    """(how many, the kind with the first one) of each kind, the most frequent first."""
    counts = Counter(remark.kind for remark in remarks)
    first = {remark.kind: remark.where for remark in reversed(remarks)}
    return [(count, f"{kind}, e.g. {first[kind]}") for kind, count in counts.most_common()]


def _remark(row: Mapping[str, Any], kind: str) -> Remark:
    return Remark(kind, row["place"], row["detail"] or "")


def _entry_of(row: Mapping[str, Any]) -> Entry:
    fields = {name: row[name] for name in Entry.__dataclass_fields__ if name != "id"}
    return Entry(**{**fields, "id": row["digest"], "sizes": tuple(map(tuple, row["sizes"]))})


def _validate_bad(catalog: FileCatalog, max_bad: float) -> None:
    rows = len(catalog.usable) + catalog.duplicates + len(catalog.bad)
    if broken := [remark for remark in catalog.bad if remark.kind == BROKEN]:
        raise UserError(
            f"{catalog.field}: {len(broken)} files cannot be read to their end, e.g. "
            f"{broken[0].where}; mend or remove them"
        )
    if rows == 0:
        why = f" ({catalog.complaints[0].partition(': ')[2]})" if catalog.complaints else ""
        raise UserError(f"{catalog.field}: no rows{why}; allowed: a row or more; give other files")
    if len(catalog.bad) > max_bad * rows:
        worst = catalog.complaints[0].partition(": ")[2]
        raise UserError(
            f"{catalog.field}: {len(catalog.bad)} of {rows} rows cannot be used ({worst}); "
            f"allowed: a share of {max_bad:g} (data.source.max_bad); mend the files or raise it"
        )
