"""Options that several commands share."""

from typing import Annotated, Any

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A preset's name or a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a field of the recipe, e.g. student.steps=4."
    ),
]
Cases = Annotated[int, typer.Option(min=1, help="Cases of each category.")]


def _store(default: str) -> Any:
    text = f"s3://bucket/prefix, or the folder of the embedded store; default {default}."
    return typer.Option("--store", metavar="PLACE", help=text)


Place = Annotated[str | None, _store("~/.flash_ray/store")]
PlaceOfStudy = Annotated[str | None, _store("the base recipe's, or DIR/store")]


def storage_of(place: str | None) -> list[str]:
    """The overrides of a recipe that put a run into the store that --store names."""
    if place is None:
        return []
    url = place if place.startswith("s3://") else "embedded"
    return [f"runtime.storage.url={url}", *([] if url == place else ["runtime.storage.endpoint="])]
