"""Which code made a record: numbers of different code do not compare."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The rooms whose code decides what a student is and what it scores; a recipe's own words are in its
# digest.
ROOMS = ("data", "evaluation", "methods", "miniature", "models", "teachers", "trainer")
LIBRARIES = ("torch", "diffusers", "transformers")


@cache
def code_digest() -> str:
    """16 hex digits that change with any line of the code that decides a trial's numbers, and with
    the versions of torch, diffusers and transformers."""
    digest = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    return digest.hexdigest()[:16]
