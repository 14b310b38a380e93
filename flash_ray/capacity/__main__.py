"""`python -m flash_ray.capacity RECIPE`: what the recipe would take on 8, 64 and 512 GPUs."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flash_ray.capacity.architecture import Architecture, architecture_of
from flash_ray.capacity.assumptions import Assumptions, assume
from flash_ray.capacity.plan import Plan, best, plans
from flash_ray.capacity.workload import Workload, workload
from flash_ray.cli.options import RecipeName
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
    """FLOPs of an update by part."""
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


def plan_rows(found: Sequence[Plan]) -> list[list[str]]:
    """A row for each division; * marks the best that has GPUs for teachers, for each size."""
    chosen = [best([p for p in found if p.gpus == size]) for size in {p.gpus for p in found}]
    return [_row(plan, "*" if plan in chosen else "") for plan in found]


def _row(plan: Plan, mark: str) -> list[str]:
    teachers, idle, memory = "inside", "", f"{plan.trainer_memory.total:.0f}"
    if plan.teachers:
        teachers, idle = str(plan.teachers), f"{plan.timing.teacher_idle_share:.0%}"
        memory += f" / {plan.teacher_memory.total:.0f}"
    return [
        str(plan.gpus),
        f"{plan.trainers}{mark}",
        teachers,
        str(plan.stage),
        str(plan.global_batch),
        f"{plan.timing.seconds:.1f}",
        f"{plan.images_per_second:.2f}",
        f"{plan.timing.wait_share:.1%}",
        idle,
        memory,
        "yes" if plan.fits else "no",
        f"{plan.gpu_hours_per_100_updates:.1f}",
    ]


def plan_table(found: Sequence[Plan]) -> Table:
    """GB is what a trainer's GPU and a teacher's must hold; the last column is GPU-hours for 100
    updates."""
    table = Table(
        *("GPUs", "trainers", "teachers", "ZeRO", "batch", "s/update", "images/s"),
        *("wait", "idle", "GB", "fits", "GPU-h/100"),
    )
    before = None
    for plan, row in zip(found, plan_rows(found), strict=True):
        if before not in (None, plan.gpus):
            table.add_section()
        before = plan.gpus
        table.add_row(*row)
    return table


def bytes_table(found: Sequence[Plan]) -> Table:
    """Bytes and checkpoints of the best division for each size."""
    table = Table(
        *("GPUs", "trainers", "teachers", "GB to and from teachers an update"),
        *("GB of ZeRO past a GPU an update", "GB a checkpoint", "s a checkpoint"),
    )
    for size in sorted({plan.gpus for plan in found}):
        plan = best([p for p in found if p.gpus == size])
        table.add_row(
            *(str(plan.gpus), str(plan.trainers), str(plan.teachers)),
            *(f"{plan.sent_bytes / 1e9:.2f}", f"{plan.gathered_bytes / 1e9:,.0f}"),
            *(f"{plan.checkpoint_bytes / 1e9:,.0f}", f"{plan.checkpoint_seconds:.0f}"),
        )
    return table


def wide_console() -> Console:
    """The terminal, or 116 columns elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=116)


def describe(architecture: Architecture, assumed: Assumptions) -> list[str]:
    """What the tables rest on."""
    lines = [f"{architecture.parameters:,} parameters; assumed:"]
    return lines + [f"  {name}={value}" for name, value in assumed.model_dump().items()]


def command(
    recipe: RecipeName = "qwen-image-2.1",
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
    """Print how a recipe would do on so many GPUs, by a model whose assumptions it prints too."""
    loaded, assumed = read(recipe, settings or [])
    architecture = architecture_of(loaded.base)
    found = [plan for size in gpus for plan in plans(loaded, architecture, assumed, size)]
    console = wide_console()
    console.print("\n".join(describe(architecture, assumed)), highlight=False)
    work = workload(loaded, architecture, assumed)
    console.print(work_table(work, loaded.training.fake_score.updates_per_iteration))
    console.print(plan_table(found), bytes_table(found))


def main() -> None:
    """Runs the command; bad input is one line on stderr, exit code 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        code = app(prog_name="python -m flash_ray.capacity", standalone_mode=False)
    except UserError as error:
        sys.exit(_refused(str(error)))
    except typer.exceptions.TyperException as error:
        sys.exit(_refused(error.format_message()))
    sys.exit(code or 0)


def _refused(reason: str) -> int:
    print(f"flash-ray: {' '.join(reason.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
