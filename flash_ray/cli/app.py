"""The command line: `flash-ray ...`. What the user did wrong is one line on stderr, exit code 2."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flash_ray import __version__
from flash_ray.cli.cluster import cluster_app
from flash_ray.cli.evaluate import rank
from flash_ray.cli.jobs import add_to as add_submission
from flash_ray.cli.options import Overrides, Place, RecipeName, storage_of
from flash_ray.cli.serve import add_to as add_serving
from flash_ray.cli.study import study_app
from flash_ray.cli.telemetry import telemetry_app
from flash_ray.errors import UserError
from flash_ray.recipe import dump_yaml, load_recipe

app = typer.Typer(
    help="Distill many-step image models into few-step students.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes and check them.")
data_app = typer.Typer(help="Look at a recipe's training data, and encode it ahead.")
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")
app.add_typer(cluster_app, name="cluster")
app.add_typer(telemetry_app, name="telemetry")
app.command()(rank)


class Bench(StrEnum):
    """The benches of `flash-ray evaluate`."""

    T2I = "t2i"
    EDIT = "edit"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flash-ray {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@recipe_app.command("show")
def recipe_show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print the whole recipe, defaults included, and its digest."""
    loaded = load_recipe(recipe, overrides)
    typer.echo(f"# digest: {loaded.digest}\n{dump_yaml(loaded)}", nl=False)


@recipe_app.command("check")
def recipe_check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Say whether the recipe can run."""
    loaded = load_recipe(recipe, overrides)
    typer.echo(f"OK {loaded.name} {loaded.digest}")


# The commands import what they run when they run it: that takes seconds.


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the results.")],
    cases: Annotated[int, typer.Option(min=1, help="Cases of each category.")] = 16,
    overrides: Overrides = None,
) -> None:
    """Distill the miniature on this machine and compare student and teacher."""
    recipe = load_recipe("miniature", overrides)
    from flash_ray.cli.tables import result_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import commands

    with Steps() as steps:
        result = commands.demo(recipe, out, cases, steps)
    result_table(result)
    typer.echo(f"report: {out / 'report.html'}\nstudent: {result['published']}, {out / 'student'}")


@app.command()
def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option(help="Of the run and the student; default: the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run of that name.")] = False,
    store: Place = None,
) -> None:
    """Distill a student as a recipe says, and publish it."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import commands

    with Steps() as steps:
        published = commands.distill(loaded, name or loaded.name, resume, store, steps)
    typer.echo(published.url)


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A published student, a downloaded one's folder (with a / in it), `teacher` or "
            "`teacher-at-4`.",
        ),
    ],
    bench: Annotated[Bench, typer.Option(help="Which bench.")],
    cases: Annotated[int, typer.Option(min=1, help="Cases of each category.")] = 16,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write the result as JSON.")
    ] = None,
    judges: Annotated[
        list[str] | None,
        typer.Option("--judge", metavar="JUDGE", help="exact (default), ocr or vlm:FILE.yaml."),
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="RECIPE", help="The teachers' recipe.")] = (
        "miniature"
    ),
    overrides: Overrides = None,
    store: Place = None,
) -> None:
    """Score a model on a bench."""
    loaded = load_recipe(recipe, overrides)
    if out and not out.parent.is_dir():
        raise UserError(f"--out: there is no folder {out.parent}; create it, or correct --out")
    from flash_ray.cli.tables import bench_table, judge_table
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import commands

    with Steps() as steps:
        chosen = judges or ["exact"]
        result = commands.evaluate(model, loaded, store, bench.value, cases, chosen, steps)
    bench_table(result, bench.value)
    if judges:
        judge_table(result["judges"])
    if out:
        out.write_text(json.dumps(result, indent=1, allow_nan=False))


@app.command()
def models(store: Place = None) -> None:
    """List the published students."""
    from flash_ray.cli.tables import student_table
    from flash_ray.storage.open import open_store
    from flash_ray.storage.students import list_students

    with open_store(store) as opened:
        student_table(list_students(opened))


@data_app.command("describe")
def data_describe(recipe: RecipeName, overrides: Overrides = None, store: Place = None) -> None:
    """Print what a run will see: counts, shares, passes, layouts, bytes of cached conditions."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.workflows import commands

    found = commands.describe_data(loaded, store)
    from flash_ray.cli.tables import data_table

    data_table(loaded, found)


@data_app.command("encode")
def data_encode(recipe: RecipeName, overrides: Overrides = None, store: Place = None) -> None:
    """Encode the cases' conditions ahead; what is encoded already is left as it is."""
    loaded = load_recipe(recipe, [*(overrides or []), *storage_of(store)])
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import commands

    with Steps() as steps:
        prepared = commands.encode_data(loaded, store, steps)
    cases = sum(shard.rows for shard in prepared.shards)
    typer.echo(f"{cases} cases; {prepared.encoded} of {len(prepared.shards)} shards encoded now")


add_serving(app)
add_submission(app)


def _refuse(reason: str) -> NoReturn:
    print(f"flash-ray: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)


def main(args: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 2 bad input (one line on stderr), 130 interrupted."""
    try:
        code = app(args=args, prog_name="flash-ray", standalone_mode=False)
    except UserError as error:
        _refuse(str(error))
    except typer.exceptions.TyperException as error:
        _refuse(f"{error.format_message().rstrip('.')}; see `flash-ray --help`")
    except typer.Abort:
        print("flash-ray: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
