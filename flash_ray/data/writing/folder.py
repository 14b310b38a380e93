"""The folder that is written: rows as recipes read them, and what is needed to go on with them.

Names that begin with _ are no data, so that a recipe may name the folder itself.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flash_ray.errors import UserError
from flash_ray.recipe.schema import Task
from flash_ray.storage.outputs import write_whole

ROWS: Mapping[Task, str] = {"t2i": "t2i.jsonl", "edit": "edit.jsonl"}
PICTURES, PICTURE_ROWS = "pictures", "_pictures.jsonl"
REQUESTS, SPEC = "_requests.jsonl", "_spec.json"
Row = dict[str, Any]


class RowFile:
    """A JSONL file of rows that only grows; `rows` is what is in it."""

    def __init__(self, path: Path):
        """Reads what is there; a last line that is cut off is taken away.

        Raises:
            UserError: a line is no row.
        """
        self._path, self.rows = path, list[Row]()
        data = path.read_bytes() if path.exists() else b""
        lines = data.split(b"\n")
        last = lines.pop()
        for number, line in enumerate(lines, 1):
            if line.strip():
                self.rows.append(_row(line, f"{path}: line {number}"))
        if last:
            with path.open("r+b") as file:
                file.truncate(len(data) - len(last))
            self.append([_row(last, str(path))] if _is_whole(last) else [])

    def append(self, rows: Sequence[Row]) -> None:
        """Adds rows; when it returns, they are on disk."""
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        with self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.rows += rows


class WritingFolder:
    """The folder while a command writes into it; made by `open_folder`."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = {task: RowFile(path / name) for task, name in ROWS.items()}
        self.picture_rows = RowFile(path / PICTURE_ROWS)
        self.requests = RowFile(path / REQUESTS)

    def picture(self, name: str) -> Path:
        """Where the picture of that id is, or is to be."""
        return self.path / PICTURES / f"{name}.png"

    def put_picture(self, name: str, png: bytes) -> None:
        """Keeps a picture, whole or not at all."""
        (self.path / PICTURES).mkdir(exist_ok=True)
        write_whole(self.picture(name), png)


@contextmanager
def open_folder(path: Path, identity: Mapping[str, Any]) -> Iterator[WritingFolder]:
    """Opens the folder for this command alone; makes it if it is not there.

    Args:
        identity: what decides the rows, as plain data; a folder is that of one identity.

    Raises:
        UserError: it is no folder, holds something else or the rows of another spec, or another
            command writes into it.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"--out: {path} is no folder; allowed: a new one; choose another")
    if path.exists() and any(path.iterdir()) and not (path / SPEC).exists():
        raise UserError(
            f"--out: {path} holds what no `flash-ray data write` made; allowed: a new folder, or "
            "one that it made of this spec; choose another"
        )
    path.mkdir(parents=True, exist_ok=True)
    with (path / REQUESTS).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out: another command writes into {path}; allowed: one at a time; wait for it, "
                "or choose another folder"
            ) from None
        if not (path / SPEC).exists():
            write_whole(path / SPEC, json.dumps(identity, indent=1, ensure_ascii=False))
        _validate_identity(path, identity)
        yield WritingFolder(path)


def _validate_identity(path: Path, identity: Mapping[str, Any]) -> None:
    try:
        made_of = json.loads((path / SPEC).read_bytes())
    except ValueError:
        raise UserError(
            f"--out: {path / SPEC} is damaged; allowed: as it was made; choose another folder"
        ) from None
    before, now = dict(_flat(made_of)), dict(_flat(json.loads(json.dumps(identity))))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UserError(
                f"--out: {path} was written with {key}={_shown(before.get(key))}, now it is "
                f"{_shown(now.get(key))}; allowed: the same, to go on; restore it, or choose a new "
                "folder"
            )


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is in nested mappings."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _row(line: bytes, place: str) -> Row:
    if not _is_whole(line):
        raise UserError(f"--out: {place} is no JSON object; correct or remove the line")
    row: Row = json.loads(line)
    return row
