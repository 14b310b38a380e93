"""Stands in for an object store where a test needs no server."""

import shutil
from pathlib import Path


class FolderStore:
    """A store's files in a folder."""

    def __init__(self, root: Path):
        self.root = root

    def put_file(self, path: Path, key: str) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.root / key)

    def get_file(self, key: str, path: Path) -> None:
        shutil.copy(self.root / key, path)

    def list(self, prefix: str = "") -> list[str]:
        return [p.relative_to(self.root).as_posix() for p in (self.root / prefix).glob("*")]
