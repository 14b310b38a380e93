"""What `flash-ray recipe plan` prints: a table of what is held, one of what comes and goes."""

from collections.abc import Iterable, Iterator, Sequence

from rich.table import Table

from flash_ray.capacity.changes import Change
from flash_ray.capacity.device import GIB, DeviceMemory, Held, Phase
from flash_ray.capacity.plan import GB, Hardware, Plan, Process
from flash_ray.recipe import Recipe


def held_table(plan: Plan) -> Table:
    """Makes the table of what networks hold on a GPU of each kind of process, in GiB."""
    table = Table("", "on each GPU", "weights", "gradients", "optimizer", "EMA", "buffers", "GiB")
    for process in plan.processes:
        rows = [
            (role, *map(_gib, vars(held).values()), _gib(held.total))
            for role, held in process.memory.held.items()
        ]
        blank = ("",) * len(vars(Held()))
        if process.memory.other:
            rows.append(("CUDA, fragments", *blank, _gib(process.memory.other)))
        rows.append(("held all the time", *blank, _gib(process.memory.resident)))
        _add(table, process, rows)
    return table


def phase_table(plan: Plan) -> Table:
    """Makes the table of what is there beside that for a while, and of what it comes to.

    Caches are keys and values of texts and references, coding is the VAE's and the text encoder's,
    training are gradients on their way and what a step takes. * marks where a GPU holds most.
    """
    table = Table(
        *("", "for a while", "activations", "caches", "coding", "training", "GiB", "in all")
    )
    for process in plan.processes:
        memory = process.memory
        rows = [
            (name, *map(_gib, (*vars(phase).values(), phase.total)), _most(memory, phase))
            for name, phase in memory.phases.items()
        ]
        if memory.loading:
            blank = ("",) * (len(vars(Phase())) + 1)
            rows.append(("loading", *blank, _marked(memory, memory.loading)))
        _add(table, process, rows)
    return table


def plan_lines(recipe: Recipe, plan: Plan, hardware: Hardware) -> Iterator[str]:
    """Yields what a node and the store hold, and the verdict, line by line."""
    again, kept = (f"{_gib(size)} GiB" for size in plan.activations)
    yield f"activations of a backward pass: {again} with gradient checkpointing, {kept} without"
    yield (
        f"a node: {plan.host / GIB:.0f} GiB of host memory, {plan.disk / GB:,.0f} GB of disk; "
        f"the store: {plan.store / GB:,.0f} GB, a checkpoint {plan.checkpoint / GB:,.1f}, "
        f"encoded cases {plan.conditions / GB:,.1f}"
    )
    if not plan.problems:
        yield f"{recipe.name} fits {hardware.words}"
        return
    yield f"{recipe.name} does not fit {hardware.words}:"
    yield from (f"  {problem}" for problem in plan.problems)


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """Yields how the recipe would fit, an option of the command for each key."""
    if not changes:
        yield "no change of a few keys makes it fit: take more GPUs, or larger ones"
        return
    yield "it fits with one of:"
    for change in changes:
        yield "  " + " ".join(f"--set '{setting}'" for setting in change)


def _most(memory: DeviceMemory, phase: Phase) -> str:
    return _marked(memory, memory.resident + phase.total)


def _marked(memory: DeviceMemory, size: float) -> str:
    return _gib(size) + "*" * (size == memory.total)


def _add(table: Table, process: Process, rows: Iterable[Sequence[str]]) -> None:
    """Adds a process's rows, its name before the first."""
    for number, row in enumerate(rows):
        table.add_row("" if number else f"{process.count} x {process.name}", *row)
    table.add_section()


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size else ""
