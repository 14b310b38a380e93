"""A writer of prompts for the stand-in of a model's server, and a spec that names it."""

import json
import random
import re
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.chat_server import Answer, Asked, ChatServer

LINE = re.compile(r"^(\d+)\. (.*); in (\w+); about (\d+) characters, (\d+) to (\d+)(.*)$", re.M)
KEY_VARIABLE = "WRITER_KEY"


def lines(asked: Asked) -> list[tuple[str, ...]]:
    """(number, theme, language, aim, fewest, most, what is said of words) of each row asked for."""
    return LINE.findall(asked.text)


def prompt_of(line: tuple[str, ...], seed: object) -> dict[str, Any]:
    """A row as it was asked for; another seed gives another one."""
    number, theme, language, aim, _, most, words = line
    order = random.Random(f"{seed} {number} {theme}")
    alphabet = "山水天地人" if language == "Chinese" else "abcdefghij klmnopqrst"
    text = "".join(order.choices(alphabet, k=8)).strip() if "can be read" in words else None
    prompt = f'"{text}" ' if text else ""
    prompt += "".join(order.choices(alphabet, k=int(aim) - len(prompt)))
    row = {"number": int(number), "prompt": " ".join(prompt.split()).ljust(int(aim), "z")}
    return {**row, "text": text} if text else row


def writes(asked: Asked, number: int) -> Answer:
    """What a good writer answers."""
    rows = [prompt_of(line, number) for line in lines(asked)]
    return Answer("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def write_spec(folder: Path, server: ChatServer, **sections: Any) -> Path:
    """A spec whose writer is the stand-in; its key is in `KEY_VARIABLE`."""
    writer = {
        "base_url": server.base_url,
        "model": "author",
        "key_variable": KEY_VARIABLE,
        "max_requests": 200,
        **sections.pop("writer", {}),
    }
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump({"writer": writer, **sections}, allow_unicode=True))
    return file
