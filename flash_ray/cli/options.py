"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
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
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier result.")]
Cases = Annotated[int, typer.Option(min=1, help="Cases of each category.")]


def _store(default: str) -> Any:
    text = f"s3://bucket/prefix, or the folder of the embedded store; default {default}."
    return typer.Option("--store", metavar="STORE", help=text)


StoreAddress = Annotated[str | None, _store("~/.flash_ray/store")]
StudyStoreAddress = Annotated[str | None, _store("the base recipe's, or DIR/store")]


def storage_of(store_address: str | None) -> list[str]:
    """The overrides of a recipe that put a run into the store that --store names."""
    if store_address is None:
        return []
    url = store_address if store_address.startswith("s3://") else "embedded"
    return [
        f"runtime.storage.url={url}",
        *([] if url == store_address else ["runtime.storage.endpoint="]),
    ]


# Of commands that run here or, by `flash-ray submit`, as a job.
RunName = Annotated[str | None, typer.Option("--name", help="Of the run; default: the recipe's.")]
Publish = Annotated[
    str | None,
    typer.Option("--publish", metavar="NAME", help="Of the student; default: the run's."),
]
Resume = Annotated[bool, typer.Option(help="Go on with the run of that name.")]


class TaskName(StrEnum):
    """The tasks that --task takes."""

    T2I = "t2i"
    EDIT = "edit"


Task = Annotated[TaskName, typer.Option(help="Which task of the benchmark.")]
BenchmarkName = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        metavar="NAME|FILE",
        help="A registered benchmark, a file of cases or the YAML file of one; default: the "
        "recipe's.",
    ),
]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="exact, ocr or vlm:FILE.yaml, several times if you like; default: the recipe's.",
    ),
]
StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="A shipped study's name or a YAML file.")
]
AtOnce = Annotated[
    int | None, typer.Option(min=1, help="Trials at the same time; default: as many as fit.")
]
ServedRecipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Whose base, teacher and benchmark are served.")
]
ServingFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="Limits, batches, replicas, as YAML."),
]
ServingChanges = Annotated[
    list[str] | None,
    typer.Option("--serving", metavar="KEY=VALUE", help="Change a setting, e.g. limits.n=4."),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
