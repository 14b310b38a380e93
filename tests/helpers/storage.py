"""Stands in for an object store where a test needs no server."""

import shutil
from pathlib import Path

from flash_ray.errors import UserError


class FolderStore:
    """A store's files in a folder."""

    def __init__(self, root: Path):
        self.root = root

    def put_file(self, path: Path, key: str) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.root / key)

    def get_file(self, key: str, path: Path) -> None:
        try:
            shutil.copy(self.root / key, path)
        except FileNotFoundError as error:
            raise UserError(f"cannot read {key}: there is no such object") from error

    def list(self, prefix: str = "") -> list[str]:
        keys = (p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        return [key for key in keys if key.startswith(prefix)]

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def url(self, key: str = "") -> str:
        return str(self.root / key)
