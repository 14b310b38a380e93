"""From a user's file or option to plain data: what JSON can say."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from flash_ray.errors import UserError

MOST_BYTES = 16 * 2**20  # of a file: /dev/zero has no end
DEEPEST, MOST_VALUES = 32, 100_000  # of plain data: what an alias to itself would exceed


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a small file.

    Raises:
        OSError: it cannot be read, or is larger than `MOST_BYTES`.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def read_text(path: str | Path) -> str:
    """The text of a small file, in UTF-8.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, is larger than `MOST_BYTES`, or no text.
    """
    return read_bytes(path).decode()


class RecipeLoader(yaml.SafeLoader):
    """YAML that reads 1e-4 as a number and rejects a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse_yaml(text: str, what: str) -> Any:
    """The plain data of a YAML text: what JSON can say, dates as text.

    Args:
        what: named in errors, in front of the problem.

    Raises:
        UserError: it is not YAML, or says what JSON cannot.
    """
    try:
        raw = yaml.load(text, RecipeLoader)
        _validate_plain(raw)
        # Encoded, so that half a character is rejected too.
        return json.loads(json.dumps(raw, default=str, ensure_ascii=False).encode())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "unreadable"
        raise UserError(f"{what}: not valid YAML{where}: {reason}; correct it") from None
    except RecursionError:
        raise UserError(f"{what}: nested too deeply; flatten it") from None
    except (ValueError, TypeError, OverflowError) as error:
        # Dates that do not exist, numbers of thousands of digits, keys that are no text.
        reason = str(error).partition(";")[0]
        raise UserError(
            f"{what}: {reason}; allowed: mappings, lists, text and numbers; correct it"
        ) from None


def _validate_plain(raw: Any) -> None:
    """Raises ValueError for data that holds itself, or is huge once its aliases are written out."""
    waiting, seen = [(raw, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
        if seen > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        items = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            waiting += [(item, depth + 1) for item in items]
