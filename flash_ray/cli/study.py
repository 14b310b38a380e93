"""The command line of studies: `flash-ray study ...`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from flash_ray.cli.options import AtOnce, StudyName, StudyStoreAddress

if TYPE_CHECKING:
    from flash_ray.recipe.schema import Task
    from flash_ray.studies.plan import Plan
    from flash_ray.studies.records import HeldOut, SearchResult
    from flash_ray.workflows.study import TrialStatus

study_app = typer.Typer(help="Compare recipes: arms under several seeds, with error bars.")

Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder of the study's results.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="The study's small version, in a folder of its own.")
]


@study_app.command("run")
def study_run(
    study: StudyName,
    out: Out,
    quick: Quick = False,
    at_once: AtOnce = None,
    store: StudyStoreAddress = None,
) -> None:
    """Run the trials that are not finished yet; after an interruption, the same command goes on."""
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import study as commands

    with Steps() as steps:
        trials = commands.run(study, out, quick, at_once, store, steps)
    words = f"{study} --out {out}{' --quick' if quick else ''}"
    typer.echo(f"{len(trials)} trials finished: {out}; now: flash-ray study report {words}")


@study_app.command("status")
def study_status(study: StudyName, out: Out, quick: Quick = False) -> None:
    """Print how far each trial is."""
    from flash_ray.cli.tables import fault_lines
    from flash_ray.workflows import study as commands

    rows, faults = commands.status(study, out, quick)
    _print_status(rows)
    fault_lines(faults)


@study_app.command("report")
def study_report(
    study: StudyName,
    out: Out,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="For the report; default: DIR/report.")
    ] = None,
    quick: Quick = False,
) -> None:
    """Write tables, verdicts, curves and pictures of what is finished, without running anything."""
    from flash_ray.cli.tables import fault_lines
    from flash_ray.workflows import study as commands

    folder, faults = commands.report(study, out, to, quick)
    fault_lines(faults)
    typer.echo(f"report: {folder / 'report.md'}")


@study_app.command("plan")
def study_plan(
    study: StudyName,
    pilot: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Results of a study of the same benchmark and judge."),
    ],
    at_once: AtOnce = None,
) -> None:
    """Print what a study would take and what it could find, before anything of it runs.

    Hours are at most so many on this machine: starting a trial is counted with its pictures.
    """
    from flash_ray.cli.tables import fault_lines
    from flash_ray.workflows import study_plan

    plan, faults = study_plan.plan(study, pilot, at_once)
    fault_lines(faults)
    _print_plan(plan)


@study_app.command("search")
def study_search(
    study: StudyName,
    out: Out,
    method: Annotated[
        str,
        typer.Option(
            help="asha: combinations drawn at random; optuna: proposed by what scored well."
        ),
    ] = "asha",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Combinations to try; default: all, at most 16."),
    ] = None,
    at_once: AtOnce = None,
    store: StudyStoreAddress = None,
) -> None:
    """Search the study's space for the best recipe, and write it to DIR/best.yaml.

    A trial that scores worse than others did so far is stopped early. A search that was cut off
    begins again; a finished one is left as it is.
    """
    from flash_ray.studies.records import BEST
    from flash_ray.telemetry.progress import Steps
    from flash_ray.workflows import study as commands

    with Steps() as steps:
        result = commands.search(study, out, method, trials, at_once, store, steps)
    _print_search(result)
    typer.echo(f"best: {out / BEST}; now: flash-ray distill {out / BEST}")


def _print_status(rows: "Sequence[TrialStatus]") -> None:
    from flash_ray.evaluation.benchmark import TASK_TITLES

    tasks = [task for task in TASK_TITLES if any(task in row.scores for row in rows)]
    names = Column("trial", overflow="fold")
    table = Table(names, "state", "iterations", *(TASK_TITLES[task] for task in tasks))
    for row in rows:
        scores = [f"{row.scores[task]:#.3g}" if task in row.scores else "" for task in tasks]
        table.add_row(row.trial, row.state, f"{row.iteration}/{row.iterations}", *scores)
    finished = sum(row.state == "finished" for row in rows)
    Console().print(table, f"{finished} of {len(rows)} trials finished", highlight=False)


def _print_plan(plan: "Plan") -> None:
    """Prints what each claim could find in the study as it is, then sizes, then what to take."""
    claims = Table("claim", "on", "δ", "detectable", "no effect of δ", "source's effect")
    for claim, power in zip(plan.study.claims, plan.own.powers, strict=True):
        found = ("not in the pilot", "", "")
        if power:
            effect = "" if power.effect is None else f"{power.effect:.0%}"
            found = (f"{power.detectable:.3f}", f"{power.no_effect:.0%}", effect)
        outcome = "" if claim.outcome == "score" else f" {claim.outcome}"
        margin = f"{plan.study.margins[claim.outcome]:g}"
        claims.add_row(claim.text, f"{claim.measure}{outcome}", margin, *found)
    sizes = Table("seeds", "cases of each category", "hours", "claims that reach δ")
    for option in plan.options:
        chosen = " (proposed)" if option is plan.proposed else ""
        own = " (the study's)" if option is plan.own else ""
        reached = f"{option.reached} of {len(plan.study.claims)}{chosen}{own}"
        sizes.add_row(str(option.seeds), _cases(option.cases), f"{option.hours:.1f}", reached)
    console = Console()
    console.print(
        f"{plan.own.hours:.1f} hours, {plan.at_once} at once. Detectable: in 80 % of such studies; "
        "percentages: how probably it is found.",
        claims,
        sizes,
        highlight=False,
    )
    console.print(
        f"proposed: {plan.proposed.seeds} seeds, cases: {{{_cases(plan.proposed.cases)}}}, "
        f"{plan.proposed.hours:.1f} hours",
        highlight=False,
        soft_wrap=True,
    )


def _cases(cases: "Mapping[Task, int]") -> str:
    return ", ".join(f"{task}: {count}" for task, count in cases.items())


def _print_search(result: "SearchResult") -> None:
    """Prints the trials, the highest last score first."""
    trials = sorted(result.trials, key=lambda trial: -trial.last_score)
    iterations = sorted({point.iteration for trial in trials for point in trial.points})
    table = Table(*trials[0].values, "state", *(f"at {iteration}" for iteration in iterations))
    for trial in trials:
        scores = {point.iteration: f"{point.score:#.3g}" for point in trial.points}
        state = "best" if trial.trial == result.best else trial.state
        values = [str(value) for value in trial.values.values()]
        table.add_row(*values, state, *(scores.get(iteration, "") for iteration in iterations))
    Console().print(table)
    if result.held_out:
        _print_held_out(result.held_out)


def _print_held_out(held_out: "HeldOut") -> None:
    """Prints a line for each task: what the best recipe is worth on cases that were not searched
    on."""
    from flash_ray.evaluation.benchmark import TASK_TITLES

    for task, score in held_out.best.items():
        line = f"held-out cases, {TASK_TITLES[task]}: best {score:#.3g}"
        if task in held_out.own:
            line += f", the study's own recipe {held_out.own[task]:#.3g}"
        if gap := held_out.differences.get(task):
            line += f", difference {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]"
        typer.echo(line)
