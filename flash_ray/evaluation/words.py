"""What a judge says of a picture, in words; the gallery reads the same file of them."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

WORDS_FILE = resources.files("flash_ray.evaluation") / "judged_words.json"
OF_OBJECT = re.compile(r"(left|middle|right)_(colour|x|size)")


def failure_in_words(failure: str) -> str:
    """Why a score is missing, as the rest of a sentence."""
    return _words()["failures"].get(failure, failure)


def fault_lines(attributes: Mapping[str, float]) -> list[str]:
    """Sentences that say which attributes do not hold; none if all do.

    Args:
        attributes: credit from 0 to 1 by name; of edits `changed.*` and `kept.*`.
    """
    faults: dict[str, list[str]] = {}
    for name, credit in attributes.items():
        if credit == 1:
            continue
        part, _, attribute = name.rpartition(".")
        heading = _words()["headings"].get(part, "Wrong")
        fault = _in_words(attribute) + (" (half right)" if credit > 0 else "")
        faults.setdefault(heading, []).append(fault)
    return [f"{heading}: {', '.join(named)}." for heading, named in faults.items()]


def _in_words(attribute: str) -> str:
    if match := OF_OBJECT.fullmatch(attribute):
        slot, prop = match.groups()
        return f"{_words()['properties'].get(prop, prop)} of the {slot} object"
    plain = attribute.replace("_", " ").replace("colour", "color")
    return _words()["attributes"].get(attribute, plain)


@cache
def _words() -> Mapping[str, Mapping[str, str]]:
    words: Mapping[str, Mapping[str, str]] = json.loads(WORDS_FILE.read_text(encoding="utf-8"))
    return words
