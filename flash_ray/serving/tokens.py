"""Bearer tokens with roles: only their SHA-256 is kept, comparisons take the same time for all."""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe.plain import read_bytes

Role = Literal["read", "generate", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may


class Token(BaseModel):
    """A token as it is kept. It is random and long, so one round of SHA-256 hides it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")
    role: Role
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def read_tokens(file: Path) -> list[Token]:
    """The tokens of a JSON file that `add_token` wrote. Raises UserError if it is not one."""
    try:
        tokens = TypeAdapter(list[Token]).validate_json(read_bytes(file))
    except OSError as error:
        raise UserError(
            f"--tokens: {file}: {error.strerror}; make it with `flash-ray token {file} NAME`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"--tokens: {file}: {field}: {first['msg']}; make it anew") from error
    if not tokens:
        raise UserError(f"--tokens: {file} holds no token; add one with `flash-ray token`")
    return tokens


def add_token(file: Path, name: str, role: Role) -> str:
    """Adds a new token to the file, which it makes if need be, for its owner alone; returns it.

    Raises:
        UserError: the file has a token of that name, or is not one of tokens.
    """
    tokens = read_tokens(file) if file.exists() else []
    if any(token.name == name for token in tokens):
        raise UserError(f"NAME: {file} has a token {name!r}; choose another name, or remove it")
    secret = f"fr-{secrets.token_urlsafe(32)}"
    try:
        added = Token(name=name, role=role, sha256=_hash(secret))
    except ValidationError:
        raise UserError(
            f"NAME: {name!r}; allowed: up to 100 of a-z 0-9 . _ - , the first a letter or digit"
        ) from None
    rows = [token.model_dump() for token in [*tokens, added]]
    partial = file.with_name(f".{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        json.dump(rows, out, indent=1)
    partial.replace(file)
    return secret


def role_of(secret: str, tokens: list[Token]) -> Role | None:
    """The role of a token, None if it is none of them."""
    role = None
    sha256 = _hash(secret)
    for token in tokens:  # all of them: the time tells nothing of which
        if hmac.compare_digest(token.sha256, sha256):
            role = token.role
    return role


def allows(role: Role, needed: Role) -> bool:
    """Whether a role may do what needs another."""
    return ROLES.index(role) >= ROLES.index(needed)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
