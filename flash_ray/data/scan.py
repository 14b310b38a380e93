"""Reads a source's files by Ray Data: what cases they hold, listed once and kept in the store."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray.data

from flash_ray.checkpoints.storage import Store
from flash_ray.data.files import Found, find_files, refuse_columns
from flash_ray.data.index import Entry, Index, from_parquet, to_parquet
from flash_ray.data.rows import BadRow, Case, parse_line, parse_sample, read_case
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Columns, Files

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
    refuse_columns(found, source.columns, task)
    key = index_key(found, source.columns, task)
    data = store.get_bytes(key)
    if data is None:
        data = to_parquet(_rows(found, source.columns, task))
        store.put_bytes_if_absent(key, data)
    index = from_parquet(found.field, data)
    _refuse_bad(index, source)
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


def _refuse_bad(index: Index, source: Files) -> None:
    rows = len(index.entries) + index.duplicates + len(index.bad)
    if rows == 0:
        raise UserError(f"{index.field}: no rows; allowed: a row or more; give other files")
    if len(index.bad) > source.max_bad * rows:
        worst = index.complaints()[0].partition(": ")[2]
        raise UserError(
            f"{index.field}: {len(index.bad)} of {rows} rows cannot be used ({worst}); allowed: a "
            f"share of {source.max_bad:g} (data.source.max_bad); mend the files or raise it"
        )
