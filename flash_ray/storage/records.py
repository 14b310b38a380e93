"""Records: small JSON objects of a store or a folder, checked when they are read.

One that is not as it should be costs itself alone: whoever reads it by name is told why, whoever
lists many gets the others and the faults beside them.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from flash_ray.errors import UserError
from flash_ray.storage.s3 import ObjectRefused, Store

MOST_BYTES = 64 * 2**20  # of a record: a planted giant must not fill the memory of who lists
READS = 8  # records read at a time
VALUE = 60  # characters of a wrong value that are shown
REASON = 300
Model = TypeVar("Model", bound=BaseModel)
Record = TypeVar("Record")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]  # as `s3.check_name`
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[int, Field(ge=0, lt=2**40, description="since 1970")]


class CorruptRecord(UserError):
    """A record is not as it should be.

    Args:
        where: its address.
        reason: what is wrong, in a few words.
        cure: what to do about it.
    """

    def __init__(self, where: str, reason: str, cure: str):
        # The arguments are what pickle hands over again: Ray carries errors between processes.
        super().__init__(_printable(where), _printable(reason)[:REASON], cure)
        self.where, self.reason, self.cure = self.args

    def __str__(self) -> str:
        return f"{self.where} is corrupt ({self.reason}); {self.cure}"


def parse_record(kind: type[Model], data: bytes, where: str, cure: str) -> Model:
    """Reads JSON strictly as a `kind`.

    Raises:
        CorruptRecord: it is not one, or is larger than `MOST_BYTES`.
    """
    if len(data) > MOST_BYTES:
        raise CorruptRecord(where, f"more than {MOST_BYTES >> 20} MiB", cure)
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise CorruptRecord(where, first_problem(error), cure) from error


def read_record(store: Store, key: str, kind: type[Model], cure: str) -> Model | None:
    """Reads an object of the store; None if there is none.

    Raises:
        CorruptRecord: it is not a `kind`, or the server refuses this one object.
        UserError: the store cannot be used.
    """
    try:
        data = store.get_bytes(key, MOST_BYTES + 1)
    except ObjectRefused as error:
        raise CorruptRecord(store.url(key), error.code, cure) from error
    return None if data is None else parse_record(kind, data, store.url(key), cure)


def read_each(
    read: Callable[[str], Record | None], names: Iterable[str]
) -> tuple[dict[str, Record], dict[str, CorruptRecord]]:
    """Reads records by name, a few at a time: those that there are, and the faults of others.

    Args:
        read: raises CorruptRecord; None: there is none of that name any more.
    """

    def outcome(name: str) -> Record | CorruptRecord | None:
        try:
            return read(name)
        except CorruptRecord as fault:
            return fault

    records: dict[str, Record] = {}
    faults: dict[str, CorruptRecord] = {}
    ordered = list(names)
    with ThreadPoolExecutor(READS) as pool:
        for name, found in zip(ordered, pool.map(outcome, ordered), strict=True):
            if isinstance(found, CorruptRecord):
                faults[name] = found
            elif found is not None:
                records[name] = found
    return records, faults


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong: the field, its value if that is short, what is allowed."""
    first = error.errors(include_url=False)[0]
    field, value = ".".join(map(str, first["loc"])), _short(first["input"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("json_invalid", "missing", "extra_forbidden") or not value:
        return f"{field}: {message}" if field else message
    return f"{field} {value}: {message}" if field else f"{value}: {message}"


class FaultLog:
    """Names each fault in a log once, and again only if it went away in between."""

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._named: frozenset[str] = frozenset()

    def name(self, faults: Iterable[CorruptRecord]) -> None:
        """Logs those of the present faults that were not there the last time."""
        present = dict.fromkeys(map(str, faults))
        for line in present:
            if line not in self._named:
                self._logger.warning("%s", line)
        self._named = frozenset(present)


def _short(value: Any) -> str:
    if not isinstance(value, str | int | float | bool | None):
        return ""
    if isinstance(value, int) and value.bit_length() > 64:
        return ""
    text = repr(value)
    return text if len(text) <= VALUE else ""


def _printable(text: str) -> str:
    """The text in one line without characters that move a cursor or begin a new line."""
    return "".join(char if char.isprintable() else "?" for char in text)
