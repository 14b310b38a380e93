"""The tables that commands print."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer
import yaml
from rich.console import Console
from rich.table import Column, Table

from flash_ray.evaluation.benchmark import TASK_TITLES
from flash_ray.recipe.schema import Task
from flash_ray.storage.scores import BaselineName, digits_of

BASELINES: tuple[BaselineName, ...] = (
    "untrained",
    "teacher",
)  # from the lower to the upper end of the gap

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from flash_ray.data.describe import Description
    from flash_ray.evaluation.describe import BenchmarkDescription
    from flash_ray.evaluation.rank import Ranking
    from flash_ray.recipe import Recipe
    from flash_ray.storage.records import CorruptRecord
    from flash_ray.storage.scores import PublishedScores
    from flash_ray.storage.students import Student
    from flash_ray.workflows.write import Written


def comparison_table(result: Mapping[str, Any]) -> None:
    """Prints the models of a demo's result.json side by side."""
    models = result["models"]
    tasks = list(next(iter(models.values())))
    table = Table("model", "evaluations", *(TASK_TITLES[task] for task in tasks))
    for name, rows in models.items():
        scores = [_mean_score(rows[task]) for task in tasks]
        table.add_row(name, str(max(row["nfe"] for row in rows.values())), *scores)
    table.add_section()
    table.add_row("gap closed", "", *(_closed(result["gap_closed"][task]) for task in tasks))
    Console().print(table)


def evaluation_table(result: Mapping[str, Any]) -> None:
    """Prints what the first judge of `flash-ray evaluate` says, by category."""
    judge, first = next(iter(result["judges"].items()))
    rows = first["categories"]
    facts = list(dict.fromkeys(name for row in rows.values() for name in _facts(row)))
    table = Table("category", "score", *first["measures"], *(f.replace("_", " ") for f in facts))
    for name, row in rows.items():
        measures = [_number(row["measures"].get(measure)) for measure in first["measures"]]
        values = [_number(_facts(row).get(fact), 3) for fact in facts]
        score = _number(row["score"], digits_of(first["scale"]))
        table.add_row(name, score, *measures, *values)
    table.add_section()
    measures = [
        _with_interval(value, first["measure_intervals"].get(name))
        for name, value in first["measures"].items()
    ]
    table.add_row("all", _mean_score(first), *measures)
    title = (
        f"{result['model']} on {result['benchmark']}, {TASK_TITLES[result['task']]}, by {judge} "
        f"({first['scale']}): {result['sampler']}, NFE {result['nfe']}"
    )
    Console().print(title, table, highlight=False)


def judge_table(judges: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints what each judge says on average, and of how many cases it has no score."""
    table = Table("judge", "scale", "score", "cases", "no score", "failures")
    for name, row in judges.items():
        cases = row["cases"].values()
        scored = sum(case["score"] is not None for case in cases)
        failed = _counts(Counter(case["failure"] for case in cases if case["failure"]))
        unscored = str(len(cases) - scored)
        table.add_row(name, row["scale"], _mean_score(row), str(scored), unscored, failed)
    Console().print(table)


def rank_table(ranking: "Ranking") -> None:
    """Prints a ranking; = marks a rank whose lead over the next may be chance."""
    judges = list(ranking.counted)
    mean = f"mean of judges{', standardized' if ranking.standardized else ''}"
    table = Table("rank", "result", "model", *judges, mean, "lead over the next")
    for row in ranking.standings:
        averages = [
            _with_interval(*row.averages[judge], digits_of(ranking.scales[judge]))
            for judge in judges
        ]
        lead = "" if row.lead is None else _with_interval(*row.lead)
        rank = f"{row.rank}{' =' if row.ties else ''}"
        table.add_row(rank, row.file, row.model, *averages, _with_interval(*row.mean), lead)
    title = f"{ranking.benchmark}, {TASK_TITLES[ranking.task]}, {ranking.cases} cases"
    Console().print(title, table, highlight=False)
    for judge, count in ranking.counted.items():
        failed = _counts(ranking.failures[judge])
        counts = f"{count} of {ranking.cases} cases count{failed and f'; {failed}'}"
        text = f"{judge} ({ranking.scales[judge]}): {counts}"
        Console().print(text, highlight=False, soft_wrap=True)


def student_table(students: "Sequence[Student]") -> None:
    """Prints the published students, with the scores that they were published with, if any was."""
    scored = [student.scores for student in students if student.scores]
    tasks = [task for task in TASK_TITLES if any(task in scores.tasks for scores in scored)]
    titles = [*(TASK_TITLES[task] for task in tasks), *(["scored on"] if scored else [])]
    name = Column("name", no_wrap=True)  # it is to be copied
    table = Table(name, "base", "NFE", *titles, "recipe", "published")
    for student in students:
        cells = []
        if scored:
            cells = [_published(student.scores, task) for task in tasks]
            cells.append(_scored_on(student.scores) if student.scores else "")
        digest, when = student.recipe_digest, student.created[:16].replace("T", " ")
        base = f"{student.base} (LoRA)" if student.kind == "lora" else student.base
        table.add_row(student.name, base, str(student.nfe), *cells, digest, when)
    Console().print(table)
    if any(scores.baselines for scores in scored):
        note = "In brackets: the untrained base to the teacher, and the share of that gap closed."
        Console().print(note, highlight=False)


def fault_lines(faults: "Iterable[CorruptRecord]") -> None:
    """Names on stderr what is corrupt and was left out of a table."""
    for fault in faults:
        typer.echo(f"flash-ray: {fault}", err=True)


def data_table(recipe: "Recipe", description: "Description") -> None:
    """Prints what a run will see, as `data.describe.describe` has it."""
    console = Console()
    table = Table("task", "category", "share", "unique cases", "samples", "passes")
    for task, categories in description.uses.items():
        for name, use in categories.items():
            samples, passes = f"{use.samples:,.0f}", f"{use.passes:.2f}"
            table.add_row(task, name, f"{use.share:.1%}", f"{use.unique:,}", samples, passes)
        table.add_section()
    updates = recipe.training.iterations
    console.print(f"{recipe.name}: {description.samples:,} samples in {updates:,} updates", table)
    table = Table("task", "output", "references", "cases")
    for layout in description.layouts:
        references = ", ".join(map(_shape, layout.references))
        table.add_row(layout.task, _shape(layout.output), references, f"{layout.cases:,}")
    console.print("layouts, height x width in pixels; one layout per micro-batch", table)
    console.print(_cache(description), highlight=False)
    for line in description.complaints:
        console.print(line, highlight=False, soft_wrap=True)


def written_table(written: "Written") -> None:
    """Prints what a folder of `flash-ray data write` holds, what was spent, and what a recipe says
    to train on it."""
    table = Table("task", "category", "rows", "of", "with text", "languages")
    for row in written.rows:
        numbers = (row.written, row.wanted, row.with_text)
        table.add_row(row.task, row.category, *map(str, numbers), _counts(row.languages))
    dropped = _counts(written.dropped)
    Console().print(
        table,
        f"asked {written.requests:,} times now, {written.tokens:,} tokens; "
        f"{written.tokens_in_all:,} tokens for all that is in {written.folder}",
        *([f"could not be used, and asked for again: {dropped}"] if dropped else []),
        highlight=False,
        sep="\n",
        soft_wrap=True,
    )
    typer.echo(
        yaml.safe_dump({"data": written.data}, sort_keys=False, allow_unicode=True), nl=False
    )


def benchmark_table(description: "BenchmarkDescription") -> None:
    """Prints what is in a benchmark, as `evaluation.describe` has it."""
    console = Console()
    table = Table("task", "category", "cases")
    for task, categories in description.counts.items():
        for name, count in categories.items():
            table.add_row(task, name, f"{count:,}")
        table.add_section()
    digest = description.digest or "depends on a recipe; give --recipe"
    console.print(f"{description.name}, digest {digest}", table, highlight=False)
    table = Table("task", "size", "cases")
    for task, sizes in description.sizes.items():
        for size, count in sorted(sizes.items(), key=lambda item: -item[1]):
            table.add_row(task, _shape(size) if size else "as the recipe says", f"{count:,}")
        table.add_section()
    console.print("sizes of the answers, height x width in pixels", table)
    for line in description.notes:
        console.print(line, highlight=False, soft_wrap=True)


def _published(scores: "PublishedScores | None", task: Task) -> str:
    """The mean score of a task; below it, if they are known, what the base scores in as many
    evaluations and as the teacher, and the share of the gap between them that is closed."""
    if scores is None or task not in scores.tasks:
        return ""
    digits = digits_of(scores.scale)
    cell = _number(scores.tasks[task], digits)
    if not scores.baselines:
        return cell
    ends = [scores.baselines[name].tasks.get(task) for name in BASELINES]
    gap = f", {scores.gap_closed[task].share:.0%}" if task in scores.gap_closed else ""
    return f"{cell}\n({' to '.join(_number(end, digits) for end in ends)}{gap})"


def _scored_on(scores: "PublishedScores") -> str:
    """What scores are of: those of other cases or judges cannot be compared."""
    cases = f"{scores.cases_per_category} cases a category"
    return f"{scores.benchmark}, {cases}, {scores.judge} ({scores.scale})"


def _facts(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers among what a judge says of a category beyond means."""
    return {k: v for k, v in row["details"].items() if v is None or isinstance(v, int | float)}


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mean_score(row: Mapping[str, Any]) -> str:
    """A judge's mean score with its interval, of the fields of `JudgeResult`."""
    return _with_interval(row["score"], row["interval"], digits_of(row["scale"]))


def _with_interval(score: float | None, interval: Sequence[float] | None, digits: int = 2) -> str:
    if score is None or interval is None:
        return ""
    low, high = (_number(bound, digits) for bound in interval)
    return f"{_number(score, digits)} [{low}, {high}]"


def _closed(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return "no gap"
    low, high = gap["interval"]
    return f"{gap['share']:.0%} [{low:.0%}, {high:.0%}]"


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _cache(description: "Description") -> str:
    counts = f"{description.encoded:,} of {description.cases:,} cases encoded"
    text = f"conditions: {counts}, {_mb(description.bytes)}"
    if description.encoded < description.cases:
        whole = description.bytes_in_all
        text += f"; all: about {_mb(whole)}" if whole else "; see `flash-ray data encode`"
    return text


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def job_table(jobs: "Iterable[JobDetails]") -> None:
    """Prints the submitted jobs, the latest first; drivers that nobody submitted are left out."""
    table = Table(Column("job", overflow="fold"), "status", "started", "minutes")
    sent = [job for job in jobs if job.submission_id]
    for job in sorted(sent, key=lambda job: job.start_time or 0, reverse=True):
        start, end = job.start_time, job.end_time
        started = datetime.fromtimestamp(start / 1000).strftime("%m-%d %H:%M") if start else ""
        minutes = f"{(end - start) / 60_000:.1f}" if start and end else ""
        table.add_row(job.submission_id, job.status.value, started, minutes)
    Console().print(table, f"{len(sent)} jobs", highlight=False)
