"""The command line: `flash-ray ...`. What the user did wrong is one line on stderr, exit code 2.

Commands import what they run when they run it: that takes seconds.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flash_ray import __version__
from flash_ray.cli import capacity, evaluate, jobs, run, serve
from flash_ray.cli.benchmark import benchmark_app
from flash_ray.cli.cluster import cluster_app, telemetry_app
from flash_ray.cli.ends import Interrupted, run_command
from flash_ray.cli.study import study_app


class _Commands(TyperGroup):
    """All commands; Ctrl-C in one reaches `ends`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted from error


app = typer.Typer(
    cls=_Commands,
    help="Distill many-step image models into few-step students.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (run, evaluate, serve, jobs, capacity):
    group.add_to(app)
app.add_typer(benchmark_app, name="benchmark")
app.add_typer(study_app, name="study")
app.add_typer(cluster_app, name="cluster")
app.add_typer(telemetry_app, name="telemetry")


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
    """Options of `flash-ray` itself, before any command."""


def main(args: list[str] | None = None) -> None:
    """Runs a command and exits as `ends` says."""
    run_command(lambda: app(args=args, prog_name="flash-ray", standalone_mode=False))


if __name__ == "__main__":
    main()
