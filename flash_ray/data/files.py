"""Files of training rows as a data source: where they are, of which format, with which columns."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as made
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import unquote

from flash_ray.data.hub import HUB, hub_filesystem, hub_split
from flash_ray.data.readers import columns_of
from flash_ray.data.row_pictures import shown
from flash_ray.data.rows import RowFormat
from flash_ray.data.source import Catalog, DataSource, Shard
from flash_ray.data.values import BadRow
from flash_ray.errors import UserError, unknown
from flash_ray.recipe.schema import Files, Task
from flash_ray.storage.address import bucket_problem, split_address
from flash_ray.storage.s3 import Store, s3_filesystem

if TYPE_CHECKING:
    import ray.data
    from pyarrow.fs import FileInfo, FileSystem

# A folder's files of the first line that it has any of are read; a line tells of others.
FORMATS = (
    {
        "jsonl": "jsonl",
        "ndjson": "jsonl",
        "parquet": "parquet",
        "tar": "webdataset",
        "arrow": "arrow",
    },
    {"csv": "csv", "tsv": "csv", "json": "json"},
    {"txt": "captions", "caption": "captions"},
)
PICTURES = ("png", "jpg", "jpeg", "jfif", "webp", "bmp", "gif", "tif", "tiff")
LOOKED_AT = 100  # rows of the first file, for their columns
# What `datasets` leaves beside its .arrow files: descriptions, and results that it may need again.
_DATASETS_OWN = re.compile(r"dataset_infos?\.json|state\.json|dataset_dict\.json|cache-.*\.arrow")
_ALLOWED = (
    "a .jsonl, .parquet, .tar, .arrow, .csv or .json file, a folder of one kind of them or of "
    "pictures with .txt files, s3://bucket/path, or hf://owner/name"
)


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

        return scan(self._find(task), self.files.max_bad, store)

    def read(self, shards: Sequence[Shard]) -> ray.data.Dataset:
        """Rows {"shard": ShardCases}: all files are read and the cases of `shards` picked."""
        from flash_ray.data.catalog import read_shards

        by_task: dict[Task, list[Shard]] = {}
        for shard in shards:
            by_task.setdefault(shard.task, []).append(shard)
        first, *others = (
            read_shards(self._find(task), of_task) for task, of_task in by_task.items()
        )
        return first.union(*others) if others else first

    def prompts(self, shards: Sequence[Shard]) -> Iterator[str]:
        """The prompts of the shards' cases; all files are read again by Ray Data."""
        from flash_ray.data.catalog import read_prompts

        by_task: dict[Task, list[Shard]] = {}
        for shard in shards:
            by_task.setdefault(shard.task, []).append(shard)
        for task, of_task in by_task.items():
            yield from read_prompts(self._find(task), of_task)

    def forget(self, task: Task, store: Store) -> None:
        """Remove the task's catalog from the store: pictures changed, the files did not."""
        from flash_ray.data.catalog import catalog_key

        store.delete(catalog_key(self._find(task)))

    def _find(self, task: Task) -> FoundFiles:
        files = find_files(self.files, task, self.endpoint)
        validate_columns(files)
        return files


@dataclass(frozen=True)
class FoundFiles:
    """A task's files.

    Args:
        prefix: of the keys of the recipe's section, for messages: "data.source.".
        form: how their rows are read.
        kind: jsonl, json, csv, parquet, webdataset, arrow or captions.
        folder: the one given, or that of the file given: pictures' paths start there.
        paths: as `filesystem` takes them, in order.
        digest: of paths, sizes and times of change: it changes when a file does.
        beside: the picture of each file of captions.
        left_aside: a line about files that are not read.
    """

    prefix: str
    form: RowFormat
    kind: str
    filesystem: FileSystem
    folder: str
    paths: tuple[str, ...]
    digest: str
    beside: Mapping[str, str] = made(default_factory=dict)
    left_aside: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The key that names the files, for messages."""
        return f"{self.prefix}{self.form.task}"

    def picture(self, path: str) -> bytes:
        """The bytes of the file that a row names: a path from the source's folder, or on disk an
        absolute one or a file:// URL, in S3 an s3:// one.

        Raises:
            OSError: there is none.
            BadRow: it is an address of another kind.
        """
        with self.filesystem.open_input_stream(self._resolve(path)) as stream:
            data: bytes = stream.read()
            return data

    def _resolve(self, path: str) -> str:
        is_local, is_s3 = (self.filesystem.type_name == name for name in ("local", "s3"))
        scheme = path.partition("://")[0].lower() if "://" in path else ""
        if scheme in ("http", "https"):
            raise BadRow("pictures at web addresses are not fetched; download them", shown(path))
        if scheme == "s3" and is_s3:
            return path.partition("://")[2]
        if scheme == "file" and is_local:
            return unquote(split_address(path).path)
        if scheme or (path.startswith("/") and not is_local):
            where = "on disk" if is_local else "in S3" if is_s3 else "on the hub"
            raise BadRow(f"pictures of a source {where} must be {where}", shown(path))
        return path if path.startswith("/") else f"{self.folder}/{path}"


def find_files(
    source: Files, task: Task, endpoint: str | None, prefix: str = "data.source."
) -> FoundFiles:
    """The files at a source's address for a task. Names that begin with . or _ are no data.

    Args:
        endpoint: of an S3 service that is not AWS's; None means AWS_ENDPOINT_URL_S3.
        prefix: of the keys of the section that names the files, for messages.

    Raises:
        UserError: there are none, or they are of several formats, or the address cannot be read.
    """
    field, address = f"{prefix}{task}", getattr(source, task)
    if address.startswith(HUB):
        filesystem, path, infos, note = _on_hub(field, address)
    else:
        filesystem, path, infos, note = *_listed(field, address, endpoint), None
    infos = _without_own_of_datasets(field, address, infos)
    infos = sorted(infos, key=lambda i: i.path)
    beside = _pictures_beside(infos)
    by_kind = _by_kind(infos, beside)
    if len(by_kind) != 1:
        problem = f"holds {' and '.join(by_kind)} files" if by_kind else "holds no such file"
        raise UserError(f"{field}: {address} {problem}; allowed: {_ALLOWED}; correct it")
    ((kind, found),) = by_kind.items()
    paths = tuple(info.path for info in found)
    shared = source.t2i == source.edit
    form = RowFormat(source.columns, task, source.category, shared)
    aside = (*_left_aside(field, infos, paths, kind), *([note] if note else []))
    beside = beside if kind == "captions" else {}
    digest = _digest(infos if kind == "captions" else found)
    return FoundFiles(prefix, form, kind, filesystem, path, paths, digest, beside, aside)


def validate_columns(
    files: FoundFiles, also: Mapping[str, str] | None = None, for_pictures: str | None = None
) -> None:
    """Check that the first file has the columns that the recipe names; nothing else is read.

    Args:
        also: further columns that it must have, by key.
        for_pictures: a column that edits may have in place of pictures.

    Raises:
        UserError: it lacks one, or is not of its format.
    """
    form, columns = files.form, files.form.columns
    try:
        known, members = columns_of(files, LOOKED_AT)
    except BadRow as error:
        reason = f"{error}: {error.detail}" if error.detail else str(error)
        raise UserError(
            f"{files.field}: {files.paths[0]} is no {files.kind} file ({reason}); allowed: "
            f"{_ALLOWED}"
        ) from error
    needed = {"prompt": columns.prompt}
    needed |= {} if form.category else {"category": columns.category}
    if form.task == "edit" and not form.shared and for_pictures not in known:
        needed["image"] = columns.image
    for name in ("subset", "score", "rendered_text"):
        if (column := getattr(columns, name)) is not None:
            needed[name] = column
    needed |= also or {}
    for name, column in needed.items():
        if column not in known:
            found = f", whose first sample holds {', '.join(members)[:200]}" if members else ""
            constant = f"; or set {files.prefix}category=NAME for all rows"
            cure = constant if name == "category" else ""
            raise UserError(
                unknown(f"{files.prefix}columns.{name}", column, known, "column")
                + f"{cure} (of {files.paths[0]}, for {files.field}{found})"
            )


def _listed(
    field: str, address: str, endpoint: str | None
) -> tuple[FileSystem, str, list[FileInfo]]:
    """The filesystem of an address on disk or in S3, its folder, and the files in it."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, path = _open_address(field, address, endpoint)
    try:
        info = filesystem.get_file_info(path)
        if info.type != FileType.Directory:
            return filesystem, path.rpartition("/")[0], [info] if info.is_file else []
        infos = filesystem.get_file_info(FileSelector(path, recursive=True))
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{field}: {address} cannot be read ({reason}); allowed: {_ALLOWED}"
        ) from error
    return filesystem, path, [i for i in infos if i.is_file and not _is_hidden(i.path, path)]


def _on_hub(field: str, address: str) -> tuple[FileSystem, str, list[FileInfo], str | None]:
    """The same of a split on the hub, with a line about which it is; nothing is fetched."""
    from pyarrow.fs import FileInfo, FileType

    split = hub_split(address, field)
    infos = [FileInfo(path, FileType.File) for path in split.paths]
    folder = os.path.commonpath([path.rpartition("/")[0] for path in split.paths])
    return hub_filesystem(), folder, infos, split.note


def _without_own_of_datasets(field: str, address: str, infos: list[FileInfo]) -> list[FileInfo]:
    """The files but for those that `datasets` keeps for itself in the folders that it saves.

    Raises:
        UserError: the folder holds several splits.
    """
    if not any(_ending(info) == "arrow" for info in infos):
        return infos
    if any(info.base_name == "dataset_dict.json" for info in infos):
        splits = {info.path.split("/")[-2] for info in infos if _ending(info) == "arrow"}
        raise UserError(
            f"{field}: {address} holds the splits {', '.join(sorted(splits))}; allowed: one of "
            f"them; give {address.rstrip('/')}/SPLIT"
        )
    return [info for info in infos if not _DATASETS_OWN.fullmatch(info.base_name)]


def _open_address(field: str, address: str, endpoint: str | None) -> tuple[FileSystem, str]:
    if not address.startswith("s3://"):
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(Path(address).expanduser().absolute())
    if problem := bucket_problem(address):
        raise UserError(f"{field}: {problem}; allowed: {_ALLOWED}")
    store = Store.from_url(address, endpoint)
    return s3_filesystem(store), f"{store.bucket}/{store.prefix}".rstrip("/")


def _is_hidden(path: str, folder: str) -> bool:
    """Whether a name below the folder begins with . or _, as shadows and left-overs do."""
    return any(part.startswith((".", "_")) for part in path.removeprefix(folder).split("/"))


def _ending(info: FileInfo) -> str:
    return info.extension.lower()


def _pictures_beside(infos: Sequence[FileInfo]) -> dict[str, str]:
    """The picture of the same name beside each file that may be its caption."""
    pictures = {i.path.rpartition(".")[0]: i.path for i in infos if _ending(i) in PICTURES}
    texts = [i.path for i in infos if _ending(i) in FORMATS[-1]]
    return {text: pictures[stem] for text in texts if (stem := text.rpartition(".")[0]) in pictures}


def _by_kind(infos: Sequence[FileInfo], beside: Mapping[str, str]) -> dict[str, list[FileInfo]]:
    """The files of the first line of FORMATS that there are any of, by kind."""
    for formats in FORMATS:
        by_kind: dict[str, list[FileInfo]] = {}
        for info in infos:
            kind = formats.get(_ending(info))
            if kind and (kind != "captions" or info.path in beside):
                by_kind.setdefault(kind, []).append(info)
        if by_kind:
            return dict(sorted(by_kind.items()))
    return {}


def _left_aside(
    field: str, infos: Sequence[FileInfo], paths: Sequence[str], kind: str
) -> Sequence[str]:
    """A line about data files, or for captions about pictures, that are not read."""
    taken = set(paths)
    endings = {ending for formats in FORMATS[:2] for ending in formats}
    if kind == "captions":
        taken |= set(_pictures_beside(infos).values())
        endings |= set(PICTURES)
    others = [i.path for i in infos if _ending(i) in endings and i.path not in taken]
    if not others:
        return ()
    why = "have no caption beside them" if kind == "captions" else f"are no {kind} files"
    return [f"{field}: {len(others)} files {why} and are not read, e.g. {others[0]}"]


def _digest(infos: Sequence[FileInfo]) -> str:
    listing = [(info.path, info.size, info.mtime_ns) for info in infos]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:32]
