"""`flash-ray evaluate`, `rank`, `models`, `export`: what models are worth, and students to take."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from flash_ray.cli.options import (
    BenchmarkName,
    Cases,
    Force,
    Judges,
    Overrides,
    StoreAddress,
    Task,
)
from flash_ray.errors import UserError
from flash_ray.recipe import load_recipe
from flash_ray.storage.outputs import validate_file, write_whole


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A published student, a downloaded one's folder (with a / in it), `teacher` or "
            "`untrained`, the base in as few evaluations as a student.",
        ),
    ],
    task: Task,
    benchmark: BenchmarkName = None,
    cases: Cases = 16,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the result as JSON.")
    ] = None,
    judges: Judges = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Of `teacher` and `untrained`, which need it; a student brings its own.",
        ),
    ] = None,
    overrides: Overrides = None,
    store: StoreAddress = None,
    force: Force = False,
) -> None:
    """Score a model on one task of a benchmark."""
    if overrides and recipe is None:
        raise UserError("--set: given without --recipe, whose fields it changes; add --recipe")
    loaded = load_recipe(recipe, overrides) if recipe else None
    if out:
        validate_file("--out", out, force)
    from flash_ray.cli.tables import evaluation_table, judge_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import evaluate as workflow

    with Steps() as steps:
        result = workflow.evaluate(
            model, loaded, store, task.value, benchmark, cases, judges or [], steps
        )
    evaluation_table(result)
    if len(result["judges"]) > 1:
        judge_table(result["judges"])
    if out:
        write_whole(out, json.dumps(result, indent=1, allow_nan=False))


def rank(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Files of `flash-ray evaluate --out`."),
    ],
) -> None:
    """Rank models by the mean of the judges' averages."""
    from flash_ray.cli.tables import rank_table
    from flash_ray.evaluation import rank as ranking

    rank_table(ranking.rank(ranking.read_results(results)))


def models(store: StoreAddress = None) -> None:
    """List the published students; what is corrupt is named on stderr and costs only itself."""
    from flash_ray.cli.tables import fault_lines, student_table
    from flash_ray.workflows.models import published_students

    students, faults = published_students(store)
    student_table(students)
    fault_lines(faults)


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A published student.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A new folder for its files and its card.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="A repository of the Hugging Face hub, made if it is not there; the login is "
            "HF_TOKEN's or that of `hf auth login`.",
        ),
    ] = None,
    form: Annotated[
        Literal["diffusers", "comfyui"],
        typer.Option(
            "--format",
            help="comfyui: a LoRA's file with ComfyUI's names, DIR/NAME.safetensors.",
        ),
    ] = "diffusers",
    store: StoreAddress = None,
    force: Force = False,
) -> None:
    """Write a published student as plain diffusers loads it, with a model card, or for ComfyUI."""
    from flash_ray.workflows.export import export as workflow

    typer.echo(workflow(name, folder, push, store, force, form))


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `flash-ray`."""
    for command in (evaluate, rank, models, export):
        app.command()(command)
