"""Files of training rows as a data source: JSONL, Parquet or WebDataset, on disk or in S3."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flash_ray.data.rows import PICTURE, BadRow, parse_line, parse_sample
from flash_ray.data.source import Catalog, DataSource, Shard
from flash_ray.errors import UserError, unknown
from flash_ray.recipe.schema import Columns, Files, Task
from flash_ray.recipe.validation import S3_URL
from flash_ray.storage.s3 import Store, s3_filesystem

if TYPE_CHECKING:
    import ray.data
    from pyarrow.fs import FileInfo, FileSystem

FORMATS = {".jsonl": "jsonl", ".parquet": "parquet", ".tar": "webdataset"}
LOOKED_AT = 100  # lines of a JSONL file, for its fields
_ALLOWED = "a .jsonl, .parquet or .tar file, a folder of one kind of them, or s3://bucket/path"


@dataclass(frozen=True)
class FileSource(DataSource):
    """The prompts and edits in a recipe's files.

    A shard holds one case: a file that grows, or another recipe over it, encodes no case again.

    Args:
        endpoint: of an S3 service that is not AWS's; None means AWS_ENDPOINT_URL_S3.
    """

    files: Files
    endpoint: str | None
    needs_ray: ClassVar[bool] = True

    def validate(self, task: Task) -> None:
        """Find the task's files and look at the first rows of the first one.

        Raises:
            UserError: there are none, or the first one lacks a column that the recipe names.
        """
        self._find(task)

    def catalog(self, task: Task, store: Store) -> Catalog:
        """The task's rows; they are read unless the store has the catalog of just these files.

        Raises:
            UserError: the files cannot be read, lack a column, or have too many unusable rows.
        """
        from flash_ray.data.catalog import scan

        return scan(self._find(task), self.files.columns, task, self.files.max_bad, store)

    def read(self, shards: Sequence[Shard]) -> ray.data.Dataset:
        """Rows {"shard": ShardCases}: all files are read and the cases of `shards` picked."""
        from flash_ray.data.catalog import read_shards

        by_task: dict[Task, list[Shard]] = {}
        for shard in shards:
            by_task.setdefault(shard.task, []).append(shard)
        first, *others = (
            read_shards(self._find(task), self.files.columns, task, of_task)
            for task, of_task in by_task.items()
        )
        return first.union(*others) if others else first

    def forget(self, task: Task, store: Store) -> None:
        """Remove the task's catalog from the store: pictures changed, the files did not."""
        from flash_ray.data.catalog import catalog_key

        store.delete(catalog_key(self._find(task), self.files.columns, task))

    def _find(self, task: Task) -> FoundFiles:
        files = find_files(self.files, task, self.endpoint)
        validate_columns(files, self.files.columns, task)
        return files


@dataclass(frozen=True)
class FoundFiles:
    """A task's files.

    Args:
        field: of the recipe, for messages.
        kind: jsonl, parquet or webdataset.
        folder: the one given, or that of the file given: pictures' paths start there.
        paths: as `filesystem` takes them, in order.
        digest: of paths, sizes and times of change: it changes when a file does.
    """

    field: str
    kind: str
    filesystem: FileSystem
    folder: str
    paths: tuple[str, ...]
    digest: str

    def picture(self, path: str) -> bytes:
        """The bytes of the file that a row names, relative to the source's folder.

        Raises:
            OSError: there is none.
        """
        with self.filesystem.open_input_stream(f"{self.folder}/{path}") as stream:
            return stream.read()


def find_files(source: Files, task: Task, endpoint: str | None) -> FoundFiles:
    """The files at a source's address for a task.

    Args:
        endpoint: of an S3 service that is not AWS's; None means AWS_ENDPOINT_URL_S3.

    Raises:
        UserError: there are none, or they are of several formats, or the address cannot be read.
    """
    from pyarrow.fs import FileSelector, FileType

    field, address = f"data.source.{task}", getattr(source, task)
    filesystem, path = _open_address(field, address, endpoint)
    try:
        info = filesystem.get_file_info(path)
        if info.type == FileType.Directory:
            infos = filesystem.get_file_info(FileSelector(path, recursive=True))
            infos = sorted(
                (i for i in infos if i.is_file and i.extension and f".{i.extension}" in FORMATS),
                key=lambda i: i.path,
            )
        else:
            infos = [info] if info.is_file else []
            path = path.rpartition("/")[0]
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{field}: {address} cannot be read ({reason}); allowed: {_ALLOWED}"
        ) from error
    kinds = sorted({_kind(info) for info in infos})
    if len(kinds) != 1 or kinds == [""]:
        problem = f"holds {' and '.join(kinds)} files" if len(kinds) > 1 else "holds no such file"
        raise UserError(f"{field}: {address} {problem}; allowed: {_ALLOWED}; correct it")
    paths = tuple(info.path for info in infos)
    return FoundFiles(field, kinds[0], filesystem, path, paths, _digest(infos))


def validate_columns(files: FoundFiles, columns: Columns, task: Task) -> None:
    """Check that the first file has the columns that the recipe names; nothing else is read.

    Raises:
        UserError: it lacks one, or is not of its format.
    """
    known = _columns(files, columns)
    needed = {"prompt": columns.prompt, "category": columns.category}
    needed |= {"image": columns.image} if task == "edit" else {}
    for name in ("subset", "score", "rendered_text"):
        if (column := getattr(columns, name)) is not None:
            needed[name] = column
    for name, column in needed.items():
        if column not in known:
            raise UserError(
                unknown(f"data.source.columns.{name}", column, known, "column")
                + f" (of {files.paths[0]}, for {files.field})"
            )


def _columns(files: FoundFiles, columns: Columns) -> list[str]:
    """The columns of the first file: of its schema, its first lines, or its first sample."""
    path = files.paths[0]
    try:
        if files.kind == "parquet":
            import pyarrow.parquet

            with files.filesystem.open_input_file(path) as file:
                return pyarrow.parquet.read_schema(file).names
        with files.filesystem.open_input_stream(path) as stream:
            row = _first_lines(stream) if files.kind == "jsonl" else _first_sample(stream, columns)
        return list(row)
    except (OSError, BadRow, tarfile.TarError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{files.field}: {path} is no {files.kind} file ({reason}); allowed: {_ALLOWED}"
        ) from error


def _first_lines(stream: Any) -> dict[str, Any]:
    """The fields of the first lines together: a row may leave some out."""
    fields: dict[str, Any] = {}
    for line in islice(io.TextIOWrapper(stream, "utf-8", errors="replace"), LOOKED_AT):
        try:
            fields |= parse_line(line)
        except BadRow:  # counted when the files are listed
            continue
    if not fields:
        raise BadRow(f"no JSON object in its first {LOOKED_AT} lines")
    return fields


def _first_sample(stream: Any, columns: Columns) -> dict[str, Any]:
    """The members of a tar file that make up its first sample."""
    sample: dict[str, Any] = {}
    first = None
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            stem, _, name = member.name.rpartition("/")[2].partition(".")
            if not member.isfile() or not name:
                continue
            first = first or stem
            if stem != first:
                break
            content = tar.extractfile(member)
            wanted = name in ("json", "txt") or PICTURE.fullmatch(name)
            sample[name] = content.read() if content and wanted else None
    if not sample:
        raise BadRow("no sample in it")
    return parse_sample(sample, columns)


def _open_address(field: str, address: str, endpoint: str | None) -> tuple[FileSystem, str]:
    if not address.startswith("s3://"):
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(Path(address).expanduser().absolute())
    if not S3_URL.fullmatch(address):
        raise UserError(f"{field}: not a bucket's address; allowed: {_ALLOWED}")
    store = Store.from_url(address, endpoint)
    return s3_filesystem(store), f"{store.bucket}/{store.prefix}".rstrip("/")


def _kind(info: FileInfo) -> str:
    return FORMATS.get(f".{info.extension}", "")


def _digest(infos: Sequence[FileInfo]) -> str:
    listing = [(info.path, info.size, info.mtime_ns) for info in infos]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:32]
