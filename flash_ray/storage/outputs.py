"""Files and folders that commands leave: checked before the work, in place when they are whole."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flash_ray.errors import UserError


def validate_file(option: str, path: Path, force: bool = False) -> None:
    """Finds out before the work whether a file can be written.

    Args:
        option: what named it, for messages.
        force: whether an earlier file may be replaced.

    Raises:
        UserError: it is there already, is no plain file, or its folder cannot be written.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{option}: {path} is no file; allowed: a new file; choose another")
    if path.exists() and not force:
        raise UserError(
            f"{option}: {path} exists; allowed: a new file; choose another, or replace it with "
            "--force"
        )
    if not path.absolute().parent.is_dir():
        raise UserError(
            f"{option}: there is no folder {path.parent}; create it, or correct {option}"
        )
    _validate_writable(option, path.absolute().parent)


def validate_folder(option: str, path: Path) -> None:
    """Raises UserError, before the work, if `new_folder` could not put a folder at `path`."""
    whole = path.absolute()
    if path.exists() and (not path.is_dir() or path.is_symlink()):
        raise UserError(f"{option}: {path} is no folder; allowed: a new one; choose another")
    if path.exists() and (os.path.ismount(whole) or Path.cwd().is_relative_to(whole.resolve())):
        raise UserError(
            f"{option}: {path} is a mount point, or the current folder is in it; allowed: a folder "
            f"below it; give e.g. {path / 'new'}"
        )
    _validate_writable(option, next(each for each in whole.parents if each.exists()))


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is there in whole or not at all; replaces an earlier one."""
    data = content.encode() if isinstance(content, str) else content
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cache_home() -> Path:
    """This node's folder for what can be had again: $FLASH_RAY_CACHE, or ~/.cache/flash_ray."""
    return Path(os.environ.get("FLASH_RAY_CACHE") or Path.home() / ".cache" / "flash_ray")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes its place at the end of the block, and then replaces another.

    What was at `path` stays there until the new folder is whole, and after a block that failed.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        fresh, replaced = Path(name) / "new", Path(name) / "old"
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(replaced)
        try:
            fresh.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise


def _validate_writable(option: str, folder: Path) -> None:
    """Raises UserError if nothing can be written into a folder; only trying tells."""
    try:
        shutil.rmtree(tempfile.mkdtemp(prefix=".probe-", dir=folder))
    except OSError as error:
        raise UserError(
            f"{option}: {folder}: {os.strerror(error.errno or 0)}; allowed: a place that can be "
            "written; choose another"
        ) from error
