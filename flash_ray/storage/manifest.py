"""Manifests: sizes and SHA-256 of files, the parts of a checkpoint, and the recipe of a run.

A manifest tells a damaged checkpoint from a whole one. It is no signature: who can write the bucket
can write both. So nothing in a checkpoint is run: it is tensors and values, and loaded as such.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from flash_ray.errors import UserError
from flash_ray.storage.records import CorruptRecord, parse_record, read_record
from flash_ray.storage.s3 import Store, check_name

USE_ANOTHER = "use another copy"
SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


class FileRecord(BaseModel):
    """The size and content of one file, as a manifest has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def record(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, FileRecord]:
    """Sizes and digests of every file under `folder` but `skip`, by POSIX path, sorted."""
    return {
        check_path(name): FileRecord(bytes=path.stat().st_size, sha256=_sha256(path))
        for name, path in _files(folder).items()
        if name not in skip
    }


def _files(folder: Path) -> dict[str, Path]:
    """Every file under `folder` by its POSIX path, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def verify(
    folder: Path,
    files: dict[str, FileRecord],
    where: str,
    hashed: Callable[[str], bool] = lambda name: True,
) -> None:
    """Checks files of `folder` against what `files` says of them.

    Args:
        hashed: whether a file of that name is read; of one that is not, the size is checked.

    Raises:
        CorruptRecord: the first that is missing, or not as it should be.
    """
    for name, expected in files.items():
        path = folder / check_path(name)
        _check_size(f"{where}: {name}", path.stat().st_size if path.is_file() else None, expected)
        if hashed(name) and _sha256(path) != expected.sha256:
            raise CorruptRecord(f"{where}: {name}", "wrong SHA-256", USE_ANOTHER)


def _check_size(where: str, size: int | None, expected: FileRecord) -> None:
    if size is None:
        raise CorruptRecord(where, "it is missing", USE_ANOTHER)
    if size != expected.bytes:
        raise CorruptRecord(where, f"{size} bytes, not {expected.bytes}", USE_ANOTHER)


def check_path(name: str) -> str:
    """Return `name` if it is a plain relative path that stays in its folder; else UserError."""
    if not SAFE_PATH.fullmatch(name):
        raise UserError(
            f"{name!r} is not a plain relative path; allowed: names of A-Z a-z 0-9 . _ + - "
            "that start with a letter, digit or _, joined by /; rename the file"
        )
    return name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


EARLIER = "resume from an earlier checkpoint"
RAY_METADATA = ".metadata.json"  # Ray Train may add it to a checkpoint


class Manifest(BaseModel):
    """One worker's part of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    recipe_digest: str
    step: int = Field(ge=0)
    part: int = Field(ge=0)
    parts: int = Field(ge=1, le=65536)
    files: dict[str, FileRecord]
    extra: dict[str, JsonValue] = {}


@dataclass(frozen=True)
class CheckedCheckpoint:
    """A checkpoint whose files are all as they were written.

    Args:
        step: the number of the last update in it.
        parts: how many workers wrote it.
        extra: what each of them recorded besides.
    """

    step: int
    parts: int
    extra: tuple[dict[str, JsonValue], ...]


class RunRecord(BaseModel):
    """The claim of a run's name, `runs/<name>/run.json`."""

    model_config = ConfigDict(frozen=True, strict=True)
    name: str
    recipe_digest: str
    recipe: dict[str, JsonValue]


def write_manifest(
    folder: Path,
    recipe_digest: str,
    step: int,
    extra: dict[str, JsonValue] | None = None,
    part: int = 0,
    parts: int = 1,
    known: Mapping[str, FileRecord] | None = None,
) -> Path:
    """Record every file of a local checkpoint folder, before it is reported.

    Where `parts` workers report one folder each, which Ray Train merges into one checkpoint,
    worker `part` writes its own; file names must differ between workers.

    Args:
        known: records of files that were hashed while they were written; the others are read.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}")
    known = known or {}
    others = record(folder, skip=frozenset({_name(part), RAY_METADATA, *known}))
    manifest = Manifest(
        recipe_digest=recipe_digest,
        step=step,
        part=part,
        parts=parts,
        files=dict(sorted({**others, **known}.items())),
        extra=extra or {},
    )
    path = folder / _name(part)
    path.write_text(json.dumps(manifest.model_dump(), indent=1, allow_nan=False))
    return path


def verify_manifest(
    folder: Path, recipe_digest: str, hashed: Callable[[Manifest, str], bool] = lambda *_: True
) -> CheckedCheckpoint:
    """Check a fetched checkpoint before anything in it is loaded.

    Args:
        hashed: whether this process reads a file of a part, which is to be hashed then; of one
            that it does not read the size is checked.

    Raises:
        CorruptRecord: a part or a file is missing, corrupt or unknown.
        UserError: the recipe is another one.
    """
    first = _read(folder, 0)
    manifests = [first, *(_read(folder, part) for part in range(1, first.parts))]
    check_digest(f"checkpoint of step {first.step}", first.recipe_digest, recipe_digest)
    for manifest in manifests:
        if (manifest.step, manifest.recipe_digest) != (first.step, first.recipe_digest):
            where = f"checkpoint {folder}: {_name(manifest.part)}"
            raise CorruptRecord(where, "it is of another step or recipe", EARLIER)
        verify(folder, manifest.files, f"checkpoint {folder}", functools.partial(hashed, manifest))
    known = {name for manifest in manifests for name in manifest.files}
    known |= {_name(part) for part in range(first.parts)} | {RAY_METADATA}
    for name in _files(folder):  # not hashed: they are 142 GB at 7B
        if name not in known:
            raise CorruptRecord(f"checkpoint {folder}: {name}", "it is in no manifest", "remove it")
    return CheckedCheckpoint(
        first.step, first.parts, tuple(manifest.extra for manifest in manifests)
    )


def check_stored(store: Store, prefix: str) -> None:
    """Checks a checkpoint in the store by its manifests and the sizes of its files, without reading
    these.

    Args:
        prefix: of its keys, with a / at its end.

    Raises:
        CorruptRecord: a part or a file is missing, of another size or unknown.
    """
    sizes = {key[len(prefix) :]: size for key, size in store.sizes(prefix).items()}
    parts, part, known = 1, 0, {RAY_METADATA}
    while part < parts:
        where = store.url(f"{prefix}{_name(part)}")
        manifest = read_record(store, f"{prefix}{_name(part)}", Manifest, EARLIER)
        if manifest is None:
            raise CorruptRecord(where, "it is missing", EARLIER)
        for name, expected in _of_part(manifest, part, where).files.items():
            _check_size(store.url(f"{prefix}{name}"), sizes.get(name), expected)
        known |= {_name(part), *manifest.files}
        parts, part = manifest.parts, part + 1
    if strange := sorted(sizes.keys() - known):
        raise CorruptRecord(store.url(f"{prefix}{strange[0]}"), "it is in no manifest", "remove it")


def record_run(
    store: Store, name: str, recipe: dict[str, JsonValue], digest: str, replace: bool = False
) -> None:
    """Claim `runs/<name>` for a recipe.

    Args:
        replace: of a run that goes on with this recipe.

    Raises:
        UserError: the name is taken.
    """
    run = RunRecord(name=name, recipe_digest=digest, recipe=recipe)
    text = run.model_dump_json(indent=1).encode()
    if replace:
        store.put_bytes(_run_key(name), text)
    elif not store.put_bytes_if_absent(_run_key(name), text):
        raise taken(store, name)


def taken(store: Store, name: str) -> UserError:
    """The error for a run's name that is claimed."""
    return UserError(
        f"name: run {name!r} exists in {store.url()}; continue it with --resume, "
        "or choose another name"
    )


def run_exists(store: Store, name: str) -> bool:
    """Whether `runs/<name>` was claimed."""
    return store.get_bytes(_run_key(name)) is not None


def open_run(store: Store, name: str) -> RunRecord:
    """The record of an earlier run that is to be continued.

    Raises:
        CorruptRecord: the record is not as it should be.
        UserError: there is no such run.
    """
    run = read_record(store, _run_key(name), RunRecord, "start a run with another name")
    if run is None:
        raise UserError(f"name: no run {name!r} in {store.url()}; start it without --resume")
    return run


def run_keeps(store: Store, name: str) -> bool:
    """Whether the run has a checkpoint: something that `--resume` goes on from."""
    keys = store.list(f"runs/{check_name('name', name)}/train/")
    return any(key.endswith(f"/{_name(0)}") for key in keys)


def forget_run(store: Store, name: str) -> None:
    """Gives the name of a run that keeps nothing back, for a new start."""
    store.delete_all(f"runs/{check_name('name', name)}/")


def check_digest(subject: str, recorded: str, given: str) -> None:
    """UserError, with both digests, unless the recipes are the same."""
    if recorded != given:
        raise UserError(
            f"--resume: {subject} has recipe digest {recorded}, the recipe given has {given}; "
            "resume with the recipe it was started with, or start a run with another name"
        )


def _run_key(name: str) -> str:
    return f"runs/{check_name('name', name)}/run.json"


def _name(part: int) -> str:
    return f"manifest-{part:05d}.json"


def _read(folder: Path, part: int) -> Manifest:
    path = folder / _name(part)
    where = f"checkpoint {folder}: {path.name}"
    if not path.is_file():
        raise CorruptRecord(where, "it is missing", EARLIER)
    return _of_part(parse_record(Manifest, path.read_bytes(), where, EARLIER), part, where)


def _of_part(manifest: Manifest, part: int, where: str) -> Manifest:
    if manifest.part != part:
        raise CorruptRecord(where, f"it is that of part {manifest.part}", EARLIER)
    return manifest
