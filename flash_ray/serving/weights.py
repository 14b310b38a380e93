"""Weights on this node: downloaded once by digest, verified, oldest removed when there are many."""

import os
import shutil
import threading
from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.serving.registry import ServedModel
from flash_ray.storage.s3 import Store
from flash_ray.storage.students import load_student, read_student


class WeightCache:
    """Folders of published students under `folder`, by digest; many processes may share it.

    Args:
        most: bytes; the folders that were asked for longest ago go when there are more.
    """

    def __init__(self, store: Store, folder: Path, most: int):
        self._store, self._folder, self._most = store, folder, most
        self._lock = threading.Lock()

    def folder_of(self, model: ServedModel) -> Path:
        """The student's folder, every size and SHA-256 verified; downloaded if it is not there.

        Raises:
            UserError: the store cannot be read, a file is corrupt, or the name is another student
                now.
        """
        if model.student is None:
            raise ValueError("a teacher has no published weights")
        if read_student(self._store, model.student).folder != model.digest:
            raise UserError(
                f"model: {model.student!r} has other weights now than those of {model.digest}; "
                "ask again"
            )
        folder = self._folder / model.digest
        with self._lock:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                load_student(self._store, model.student, folder)
            except UserError:
                if folder.exists():  # damaged on this node: the store's copy decides
                    shutil.rmtree(folder)
                    load_student(self._store, model.student, folder)
                else:
                    raise
            os.utime(folder)
            self._remove_oldest(keep=folder)
        return folder

    def _remove_oldest(self, keep: Path) -> None:
        folders = sorted(
            (path for path in self._folder.iterdir() if len(path.name) == 16),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: sum(f.stat().st_size for f in path.rglob("*")) for path in folders}
        total = sum(sizes.values())
        for path in folders:
            if total <= self._most or path == keep:
                break
            shutil.rmtree(path, ignore_errors=True)  # another process may be at it
            total -= sizes[path]
