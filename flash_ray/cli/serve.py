"""`flash-ray serve`, `token` and `alias`."""

from pathlib import Path
from typing import Annotated

import typer

from flash_ray.cli.options import (
    Overrides,
    Port,
    ServedRecipe,
    ServingChanges,
    ServingFile,
    StoreAddress,
)
from flash_ray.recipe import load_recipe
from flash_ray.serving.settings import load_serving
from flash_ray.serving.tokens import ROLES, add_token


def serve(
    recipe: ServedRecipe,
    overrides: Overrides = None,
    settings: ServingFile = None,
    changes: ServingChanges = None,
    store: StoreAddress = None,
    tokens: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tokens that `flash-ray token` made.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Serve the teacher and the published students over HTTP, with a page to look at them."""
    loaded = load_recipe(recipe, overrides)
    configured = load_serving(settings, changes)
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import serve as commands

    with Steps() as steps:
        commands.serve(loaded, store, configured, tokens, (host, port), steps)


def token(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made if it is not there.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is.")],
    role: Annotated[str, typer.Option(help=f"{', '.join(ROLES)}.")] = "generate",
) -> None:
    """Add a token to a file and print it, this once: the file has its hash only."""
    if role not in ROLES:
        raise typer.BadParameter(f"--role: {role!r}; allowed: {', '.join(ROLES)}")
    typer.echo(add_token(file, name, role))


def alias(
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="What requests call it.")],
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="A published student.")],
    store: StoreAddress = None,
) -> None:
    """Point an alias to a student; endpoints that run go over to it without losing a request."""
    from flash_ray.storage.embedded import open_store
    from flash_ray.storage.students import set_alias

    with open_store(store) as opened:
        set_alias(opened, name, student)


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `flash-ray`."""
    for command in (serve, token, alias):
        app.command()(command)
