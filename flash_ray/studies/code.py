"""Which code made a record: numbers of different code do not compare."""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from flash_ray import plugins

ROOT = Path(__file__).parents[1]
# The rooms whose code decides what a student is and what it scores; a recipe's own words are in its
# digest.
ROOMS = ("data", "evaluation", "methods", "models", "teachers", "trainer")
LIBRARIES = ("torch", "diffusers", "transformers")


@cache
def code_digest() -> str:
    """16 hex digits that change with any line of the code that decides a trial's numbers, that of
    plug-ins included, and with the versions of torch, diffusers and transformers."""
    digest = hashlib.sha256()
    for name, path in sorted(_files()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    return digest.hexdigest()[:16]


def _files() -> Iterator[tuple[str, Path]]:
    """Files by a name that is the same wherever they are installed."""
    folders = {f"flash_ray.{room}": ROOT / room for room in ROOMS}
    for package, folder in {**plugins.folders(), **folders}.items():
        files = folder.rglob("*.py") if folder.is_dir() else [folder]
        for file in files:
            relative = file.relative_to(folder if folder.is_dir() else folder.parent)
            yield f"{package}/{relative.as_posix()}", file
