"""What a row's field says, by its value: text that is plainly a number is one, and so on."""

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

TRUE, FALSE = ("true", "yes", "1", "1.0"), ("false", "no", "0", "0.0", "")


class BadRow(ValueError):
    """The row cannot be used.

    Args:
        message: why, in a few words that are the same for all rows of this kind.
        detail: what is true of this one row alone; never a picture.
    """

    def __init__(self, message: str, detail: str = ""):
        super().__init__(message)
        self.detail = detail


class BadFile(BadRow):
    """The file cannot be read, or not to its end."""


def text_of(value: Any, field: str) -> str | None:
    """A text, or a number as text, whole numbers without a point; None where there is none.

    Raises:
        BadRow: it is neither.
    """
    value = _plain(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(int(value)) if value == int(value) else str(value)
    raise BadRow(f"{field} is not a text", type(value).__name__)


def texts_of(value: Any, field: str) -> Sequence[str]:
    """A text, or a list of them.

    Raises:
        BadRow: it is neither.
    """
    value = _plain(value)
    if value is None:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str) for item in values):
        raise BadRow(f"{field} is not a text", type(values[0]).__name__)
    return values


def number_of(value: Any, field: str) -> float | None:
    """A number, also as text or Decimal; None where there is none.

    Raises:
        BadRow: it is no number, or not a finite one.
    """
    value = _plain(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"{field} is not a number", repr(value)[:40])
    return number


def truth_of(value: Any, field: str) -> bool:
    """True or false, also as text or number; nothing is false.

    Raises:
        BadRow: it is neither.
    """
    word = "" if (value := _plain(value)) is None else str(value).strip().lower()
    if word not in (*TRUE, *FALSE):
        raise BadRow(f"{field} is neither true nor false", repr(value)[:40])
    return word in TRUE


def whole_characters(text: str) -> tuple[str, bool]:
    """The text without halves of characters (lone surrogates), and whether it had any."""
    whole = text.encode("utf-8", "ignore").decode("utf-8")
    return whole, whole != text


def _plain(value: Any) -> Any:
    """NumPy's scalars as Python's; NaN, which tables have where nothing is, as None."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float | Decimal) and value != value:
        return None
    return value
