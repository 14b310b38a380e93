"""The token that guards a Ray of this user: found where Ray looks, or made for its owner alone."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from flash_ray.errors import UserError


@dataclass(frozen=True)
class Token:
    """A secret, and its source: the name of a variable, or the path of a file."""

    value: str = field(repr=False)
    source: str

    def environment(self) -> dict[str, str]:
        """The variables with which Ray finds it; a file is named by its path."""
        if self.source == "RAY_AUTH_TOKEN":
            return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.value}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.source}


def read_token() -> Token:
    """Reads the user's token: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

    A file that is missing is made; in either case its owner alone may read it afterwards.

    Raises:
        UserError: the file is empty, or cannot be read or made.
    """
    if value := os.environ.get("RAY_AUTH_TOKEN"):
        return Token(value, "RAY_AUTH_TOKEN")
    default = Path.home() / ".ray" / "auth_token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or default).absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create_token(path)
        if path.stat().st_mode & 0o077:  # Ray itself makes it readable by all
            path.chmod(0o600)
        value = path.read_text().strip()
    except OSError as error:
        raise UserError(
            f"{path}: the token: {os.strerror(error.errno or 0)}; allowed: a file of yours; set "
            "RAY_AUTH_TOKEN_PATH to another"
        ) from error
    if not value:
        raise UserError(f"{path}: the token is empty; remove the file and one is made")
    return Token(value, str(path))


def _create_token(path: Path) -> None:
    """Writes a random token unless there is a file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(file, "w") as opened:
        opened.write(secrets.token_hex(32))
