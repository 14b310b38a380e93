"""The catalog of a source's files: Ray Data reads all rows once, the store keeps what they hold."""

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet
import ray
import ray.data

from flash_ray.data.rows import BadRow, Row, parse_line, parse_sample, read_row
from flash_ray.data.source import READ_CPUS, Entry, Shard, ShardCases
from flash_ray.errors import UserError
from flash_ray.recipe.schema import Columns, Task
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from flash_ray.data.files import FoundFiles

FORMAT = "scan-1"  # changes with what an entry says
EXCERPT = 60  # characters of a bad row
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
class FileCatalog:
    """All rows of a task's files.

    Args:
        field: of the recipe, for messages.
        usable: the entries of usable rows: each case once.
        duplicates: how many rows repeat a case.
        bad: (reason, excerpt) of each of the other rows.
    """

    field: str
    usable: tuple[Entry, ...]
    duplicates: int
    bad: tuple[tuple[str, str], ...]

    @property
    def categories(self) -> Sequence[str]:
        """The categories of usable rows, in alphabetical order."""
        return sorted(self._by_category)

    @property
    def complaints(self) -> Sequence[str]:
        """A line for each kind of unusable row: how many, and the first one."""
        counts = Counter(reason for reason, _ in self.bad)
        first = dict(reversed(self.bad))
        return [
            f"{self.field}: {count} rows skipped: {reason}, e.g. {first[reason]}"
            for reason, count in counts.most_common()
        ]

    def count(self, category: str) -> int:
        """How many different cases the category has."""
        return len(self._by_category.get(category, ()))

    def entries(self, category: str) -> Sequence[Entry]:
        """The category's cases by digest: any order of rows and files gives the same."""
        return self._by_category.get(category, ())

    @cached_property
    def _by_category(self) -> dict[str, list[Entry]]:
        table: dict[str, list[Entry]] = {}
        for entry in sorted(self.usable, key=lambda entry: entry.digest):
            table.setdefault(entry.category, []).append(entry)
        return table


def scan(
    files: "FoundFiles", columns: Columns, task: Task, max_bad: float, store: Store
) -> FileCatalog:
    """The catalog of a task's files; from the store, unless they have changed.

    Args:
        max_bad: the largest share of rows that cannot be used, 0 to 1.

    Raises:
        UserError: too many rows cannot be used, or there are none.
    """
    key = catalog_key(files, columns, task)
    data = store.get_bytes(key)
    if data is None:
        data = to_parquet(_list_rows(files, columns, task))
        store.put_bytes_if_absent(key, data)
    catalog = from_parquet(files.field, data)
    _validate_bad(catalog, max_bad)
    return catalog


def catalog_key(files: "FoundFiles", columns: Columns, task: Task) -> str:
    """The key under which the store keeps the catalog of those files."""
    content = json.dumps([FORMAT, files.digest, task, columns.model_dump()])
    return f"sources/{hashlib.sha256(content.encode()).hexdigest()[:32]}.parquet"


def read_shards(
    files: "FoundFiles", columns: Columns, task: Task, shards: Sequence[Shard]
) -> ray.data.Dataset:
    """Rows {"shard": ShardCases}: the shards, of one case each, whose case is in the files."""
    quiet_ray_data()
    wanted = ray.put({case: shard for shard in shards for case in shard.cases})

    def pick(row: Mapping[str, Any]) -> list[dict[str, ShardCases]]:
        try:
            case = row_of(row, files, columns, task)
        except BadRow:  # counted when the files were listed
            return []
        shard = ray.get(wanted).get(case.digest)
        return [{"shard": ShardCases(shard, (case.training_case(),))}] if shard else []

    return _read_rows(files).flat_map(pick, num_cpus=READ_CPUS)


def row_of(row: Mapping[str, Any], files: "FoundFiles", columns: Columns, task: Task) -> Row:
    """The usable row in a row as Ray Data has it.

    Raises:
        BadRow: it is not usable.
    """
    if files.kind == "jsonl":
        row = parse_line(row["text"])
    elif files.kind == "webdataset":
        row = parse_sample(row, columns)
    return read_row(row, columns, task, files.picture)


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    """A file of rows with the fields of an entry, or with `bad` and `excerpt`.

    They are ordered by digest, since those who read the files end in any order.
    """
    rows = sorted(rows, key=lambda row: (row.get("digest", ""), row.get("excerpt", "")))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, _SCHEMA), buffer)
    return buffer.getvalue()


def from_parquet(field: str, data: bytes) -> FileCatalog:
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
    bad = tuple((row["bad"], row["excerpt"]) for row in rows if row["bad"])
    entries = {row["digest"]: _entry_of(row) for row in rows if not row["bad"]}
    duplicates = len(rows) - len(bad) - len(entries)
    return FileCatalog(field, tuple(entries.values()), duplicates, bad)


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
    """The files' rows as Ray Data has them, for `row_of`."""
    paths = list(files.paths)
    options: dict[str, Any] = {
        "filesystem": files.filesystem,
        "file_extensions": None,
        "num_cpus": READ_CPUS,
    }
    if files.kind == "jsonl":
        return ray.data.read_text(paths, **options)
    if files.kind == "parquet":
        return ray.data.read_parquet(paths, **options)
    return ray.data.read_webdataset(paths, decoder=None, **options)


def _list_rows(files: "FoundFiles", columns: Columns, task: Task) -> list[dict[str, Any]]:
    quiet_ray_data()
    listed = _read_rows(files).map(_lister(files, columns, task), num_cpus=READ_CPUS)
    return [json.loads(row["entry"]) for row in listed.iter_rows()]


def _lister(
    files: "FoundFiles", columns: Columns, task: Task
) -> Callable[[dict[str, Any]], dict[str, str]]:
    def list_row(row: dict[str, Any]) -> dict[str, str]:
        # JSON, since blocks whose columns are all null would not fit the others.
        return {"entry": json.dumps(_fields_of(row, files, columns, task))}

    return list_row


def _fields_of(
    row: dict[str, Any], files: "FoundFiles", columns: Columns, task: Task
) -> dict[str, Any]:
    try:
        usable = row_of(row, files, columns, task)
    except BadRow as bad:
        name = row.get("__key__", row.get(columns.prompt))
        shown = row["text"] if files.kind == "jsonl" else name
        return {"bad": str(bad), "excerpt": repr(str(shown)[:EXCERPT])}
    entry = Entry(
        id=usable.digest,
        digest=usable.digest,
        category=usable.category,
        length=len(usable.prompt),
        sizes=usable.sizes,
        subset=usable.subset,
        score=usable.score,
        rendered_text=usable.rendered_text,
    )
    return asdict(entry)


def _entry_of(row: Mapping[str, Any]) -> Entry:
    fields = {name: row[name] for name in Entry.__dataclass_fields__ if name != "id"}
    return Entry(**{**fields, "id": row["digest"], "sizes": tuple(map(tuple, row["sizes"]))})


def _validate_bad(catalog: FileCatalog, max_bad: float) -> None:
    rows = len(catalog.usable) + catalog.duplicates + len(catalog.bad)
    if rows == 0:
        raise UserError(f"{catalog.field}: no rows; allowed: a row or more; give other files")
    if len(catalog.bad) > max_bad * rows:
        worst = catalog.complaints[0].partition(": ")[2]
        raise UserError(
            f"{catalog.field}: {len(catalog.bad)} of {rows} rows cannot be used ({worst}); "
            f"allowed: a share of {max_bad:g} (data.source.max_bad); mend the files or raise it"
        )
