"""The instructions of infra/Containerfile."""

import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).parents[2] / "infra/Containerfile"


@cache
def instructions() -> tuple[tuple[str, str], ...]:
    """(instruction, arguments), continued lines joined, comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return tuple((name, arguments.strip()) for name, _, arguments in split)


def last(name: str) -> str:
    """The arguments of the last such instruction."""
    return [arguments for kind, arguments in instructions() if kind == name][-1]


def user_of() -> str:
    """UID:GID that the image runs as."""
    return last("USER")


def variables_of() -> dict[str, str]:
    """The image's environment."""
    return dict(pair.split("=", 1) for pair in last("ENV").split())
