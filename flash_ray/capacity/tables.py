"""`python -m flash_ray.capacity RECIPE`: what the recipe would take on 8, 64 and 512 GPUs."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flash_ray.capacity.estimate import Estimate, best, estimates
from flash_ray.capacity.workload import (
    Architecture,
    Assumptions,
    Workload,
    architecture_of,
    assume,
    workload,
)
from flash_ray.errors import UserError
from flash_ray.recipe import Recipe, load_recipe
from flash_ray.recipe.load import override


def read(recipe: str, settings: Sequence[str]) -> tuple[Recipe, Assumptions]:
    """The recipe and the assumptions; a setting's key says which of the two it changes."""
    values: dict[str, float] = {}
    others = []
    for setting in settings:
        if setting.partition("=")[0] in Assumptions.model_fields:
            values = override(values, setting)
        else:
            others.append(setting)
    return load_recipe(recipe, others), assume(values)


def work_table(work: Workload, fake_updates: int) -> Table:
    """Makes the table of an update's FLOPs by part."""
    parts = {
        "student's rollout": work.rollout.flops,
        "student's forward pass": work.student_forward.flops,
        "student's backward pass": work.student_backward.flops,
        "fake score": work.fake_score.flops,
        f"{fake_updates} fake-score updates": fake_updates * work.fake_update.flops,
        "teachers, ahead (prefill)": sum(t.prefill.flops for t in work.teachers),
        "teachers, scores": sum(t.score.flops for t in work.teachers),
    }
    total = sum(parts.values())
    table = Table("part of an update", "TFLOP a micro-batch", "share")
    for name, flops in parts.items():
        table.add_row(name, f"{flops / 1e12:,.4g}", f"{flops / total:.1%}")
    table.add_section()
    table.add_row("all", f"{total / 1e12:,.4g}", "")
    return table


def estimate_rows(estimates: Sequence[Estimate]) -> list[list[str]]:
    """Makes a row for each division; for each size * marks the best that has GPUs for teachers."""
    sizes = {estimate.gpus for estimate in estimates}
    chosen = [best([e for e in estimates if e.gpus == size]) for size in sizes]
    return [_row(estimate, "*" if estimate in chosen else "") for estimate in estimates]


def _row(estimate: Estimate, mark: str) -> list[str]:
    teachers, idle, memory = "inside", "", f"{estimate.trainer_memory.total:.0f}"
    if estimate.teachers:
        teachers, idle = str(estimate.teachers), f"{estimate.timing.teacher_idle_share:.0%}"
        memory += f" / {estimate.teacher_memory.total:.0f}"
    return [
        str(estimate.gpus),
        f"{estimate.trainers}{mark}",
        teachers,
        str(estimate.stage),
        str(estimate.global_batch),
        f"{estimate.timing.seconds:.1f}",
        f"{estimate.images_per_second:.2f}",
        f"{estimate.timing.wait_share:.1%}",
        idle,
        memory,
        "yes" if estimate.fits else "no",
        f"{estimate.gpu_hours_per_100_updates:.1f}",
    ]


def estimate_table(estimates: Sequence[Estimate]) -> Table:
    """Makes the table of divisions.

    GB is what a trainer's GPU and a teacher's must hold; the last column is GPU-hours for 100
    updates.
    """
    table = Table(
        *("GPUs", "trainers", "teachers", "ZeRO", "batch", "s/update", "images/s"),
        *("wait", "idle", "GB", "fits", "GPU-h/100"),
    )
    before = None
    for estimate, row in zip(estimates, estimate_rows(estimates), strict=True):
        if before not in (None, estimate.gpus):
            table.add_section()
        before = estimate.gpus
        table.add_row(*row)
    return table


def bytes_table(estimates: Sequence[Estimate]) -> Table:
    """Makes the table of bytes and checkpoints of the best division for each size."""
    table = Table(
        *("GPUs", "trainers", "teachers", "GB to and from teachers an update"),
        *("GB of ZeRO past a GPU an update", "GB a checkpoint", "s a checkpoint"),
    )
    for size in sorted({estimate.gpus for estimate in estimates}):
        estimate = best([e for e in estimates if e.gpus == size])
        table.add_row(
            *(str(estimate.gpus), str(estimate.trainers), str(estimate.teachers)),
            *(f"{estimate.sent_bytes / 1e9:.2f}", f"{estimate.gathered_bytes / 1e9:,.0f}"),
            *(f"{estimate.checkpoint_bytes / 1e9:,.0f}", f"{estimate.checkpoint_seconds:.0f}"),
        )
    return table


def wide_console() -> Console:
    """The terminal, or 116 columns elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=116)


def describe(architecture: Architecture, assumed: Assumptions) -> list[str]:
    """Lists what the tables rest on."""
    lines = [f"{architecture.parameters:,} parameters; assumed:"]
    return lines + [f"  {name}={value}" for name, value in assumed.model_dump().items()]


def command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A preset's name or a YAML file.")
    ] = "qwen-image-2.1",
    gpus: Annotated[list[int], typer.Option(help="How many; again for another size.")] = [  # noqa: B006
        8,
        64,
        512,
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of an assumption, or of the recipe."),
    ] = None,
) -> None:
    """Print what a recipe would take on so many GPUs, by a model that states its assumptions."""
    loaded, assumed = read(recipe, settings or [])
    architecture = architecture_of(loaded.base)
    rows = [e for size in gpus for e in estimates(loaded, architecture, assumed, size)]
    console = wide_console()
    console.print("\n".join(describe(architecture, assumed)), highlight=False)
    work = workload(loaded, architecture, assumed)
    console.print(work_table(work, loaded.training.fake_score.updates_per_iteration))
    console.print(estimate_table(rows), bytes_table(rows))


def main() -> None:
    """Runs the command; bad input is one line on stderr, exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        code = app(prog_name="python -m flash_ray.capacity", standalone_mode=False)
    except UserError as error:
        sys.exit(_bad_input(str(error)))
    except typer.exceptions.TyperException as error:
        sys.exit(_bad_input(error.format_message()))
    sys.exit(code or 0)


def _bad_input(reason: str) -> int:
    print(f"flash-ray: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
