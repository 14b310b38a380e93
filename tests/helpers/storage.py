"""Stand in for an object store where a test needs no server."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flash_ray.errors import UserError
from flash_ray.storage.s3 import Store


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


class MemoryStore(Store):
    """A store whose objects are in a dictionary: thousands of them in a second."""

    @cached_property
    def objects(self) -> dict[str, bytes]:
        """The objects by key."""
        return {}

    def get_bytes(self, key: str, most: int | None = None) -> bytes | None:
        data = self.objects.get(key)
        return None if data is None else data[:most]

    def put_bytes(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def put_bytes_if_absent(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, data) is data

    def put_file(self, path: Path, key: str) -> None:
        self.objects[key] = path.read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.objects[key])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def folders(self, prefix: str) -> Iterator[str]:
        inside = (key[len(prefix) :] for key in sorted(self.objects) if key.startswith(prefix))
        yield from dict.fromkeys(key.split("/")[0] for key in inside if "/" in key)

    def _listed(self, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                data = self.objects[key]
                yield key, {"Size": len(data), "ETag": hashlib.md5(data).hexdigest()}
