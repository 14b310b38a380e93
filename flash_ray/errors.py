"""The one error that a user has to act on, not a programmer, and how its lines are made."""

import difflib
from collections.abc import Collection, Sequence


class UserError(Exception):
    """Bad input: names the field, its value, what is allowed and the cure, in one line.

    The command line prints it as `flash-ray: ...` on stderr and exits with code 2.
    """


def unknown(field: str, name: str, known: Collection[str], kind: str) -> str:
    """The problem with a name that is not among the known ones, and the nearest of those."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"{field}: unknown {kind} {name!r}; {hint}allowed: {', '.join(known)}; rename or remove it"
    )


def one_line(problems: Sequence[str]) -> str:
    """The first problem, and how many more there are."""
    more = len(problems) - 1
    return problems[0] + (f" (and {more} more problem{'s'[: more > 1]})" if more else "")
