"""Sizes and SHA-256 of the files of a folder: taken when it is written, checked when it is read."""

import hashlib
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from flash_ray.errors import UserError

SAFE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")


class FileRecord(BaseModel):
    """What a manifest says of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def record(folder: Path, skip: frozenset[str] = frozenset()) -> dict[str, FileRecord]:
    """Sizes and digests of every file under `folder` but `skip`, by POSIX path, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    records = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        check_path(name): FileRecord(bytes=path.stat().st_size, sha256=_sha256(path))
        for name, path in records.items()
        if name not in skip
    }


def verify(folder: Path, files: dict[str, FileRecord], where: str) -> None:
    """UserError naming the first file of `folder` that is missing or not what `files` says."""
    for name, expected in files.items():
        path = folder / check_path(name)
        if not path.is_file():
            raise UserError(f"{where}: {name} is missing; use another copy")
        if path.stat().st_size != expected.bytes:
            raise UserError(
                f"{where}: {name} is corrupt ({path.stat().st_size} bytes, not {expected.bytes}); "
                "use another copy"
            )
        if _sha256(path) != expected.sha256:
            raise UserError(f"{where}: {name} is corrupt (wrong SHA-256); use another copy")


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
