"""The tables that `flash-ray capacity` prints, and what may be set."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from flash_ray.capacity.device import GIB
from flash_ray.capacity.estimate import Estimate, best
from flash_ray.capacity.pipeline import Architecture
from flash_ray.capacity.workload import Assumptions, Workload, assume
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
    teachers, idle, memory = "inside", "", f"{estimate.trainer_memory.total / GIB:.0f}"
    if estimate.teachers:
        teachers, idle = str(estimate.teachers), f"{estimate.timing.teacher_idle_share:.0%}"
        memory += f" / {estimate.teacher_memory.total / GIB:.0f}"
    return [
        str(estimate.gpus),
        f"{estimate.trainers}{mark}",
        teachers,
        str(estimate.stage or ""),
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

    GiB is what a trainer's GPU and a teacher's must hold; the last column is GPU-hours for 100
    updates.
    """
    table = Table(
        *("GPUs", "trainers", "teachers", "ZeRO", "batch", "s/update", "images/s"),
        *("wait", "idle", "GiB", "fits", "GPU-h/100"),
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
