"""The tables that commands print."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ray.job_submission import JobDetails
from rich.console import Console
from rich.table import Column, Table

from flash_ray.data.describe import Description
from flash_ray.evaluation.rank import Ranking
from flash_ray.miniature.benchmark import BENCHES
from flash_ray.recipe import Recipe
from flash_ray.storage.students import Student


def result_table(result: Mapping[str, Any]) -> None:
    """Prints the demo's models side by side."""
    table = Table("model", "evaluations", "text to image", "editing")
    for name in ("teacher", "teacher_at_4", "student"):
        row = result[name]
        scores = [_with_interval(row[bench], row["intervals"][bench]) for bench in BENCHES]
        table.add_row(name.replace("_", " "), str(row["nfe"]), *scores)
    Console().print(table)


def bench_table(result: Mapping[str, Any], bench: str) -> None:
    """Prints one model's scores on one bench, by category."""
    table = Table("category", "score", "compliance", "quality", "diversity gap")
    for name, row in result["categories"][bench].items():
        gap = "" if row["diversity_gap"] is None else f"{row['diversity_gap']:.3f}"
        values = [f"{row[measure]:.2f}" for measure in ("score", "compliance", "quality")]
        table.add_row(name, *values, gap)
    table.add_section()
    table.add_row(
        "all",
        _with_interval(result[bench], result["intervals"][bench]),
        f"{result['compliance'][bench]:.2f}",
        f"{result['quality'][bench]:.2f}",
        "",
    )
    title = f"{result['model']} on {bench}, {result['ways'][bench]}, NFE {result['nfe']}"
    Console().print(title, table, highlight=False)


def judge_table(judges: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints what each judge says on average, and of how many cases it has no opinion."""
    table = Table("judge", "score", "cases", "no opinion", "failures")
    for name, row in judges.items():
        opinions = row["opinions"].values()
        scored = sum(o["score"] is not None for o in opinions)
        score = _with_interval(row["score"], row["interval"]) if scored else ""
        failed = _counts(Counter(o["failure"] for o in opinions if o["failure"]))
        table.add_row(name, score, str(scored), str(len(opinions) - scored), failed)
    Console().print(table)


def rank_table(ranking: Ranking) -> None:
    """Prints a ranking; = marks a rank whose lead over the next may be chance."""
    judges = list(ranking.counted)
    table = Table("rank", "result", "model", *judges, "mean of judges", "lead over the next")
    for row in ranking.standings:
        averages = [_with_interval(*row.averages[judge]) for judge in judges]
        lead = "" if row.lead is None else _with_interval(*row.lead)
        rank = f"{row.rank}{' =' if row.ties else ''}"
        table.add_row(rank, row.file, row.model, *averages, _with_interval(*row.mean), lead)
    Console().print(f"{ranking.bench}, {ranking.cases} cases", table, highlight=False)
    for judge, count in ranking.counted.items():
        failed = _counts(ranking.failures[judge])
        text = f"{judge}: {count} of {ranking.cases} cases count{failed and f'; {failed}'}"
        Console().print(text, highlight=False, soft_wrap=True)


def student_table(students: Sequence[Student]) -> None:
    """Prints the published students."""
    table = Table("name", "base", "NFE", "text to image", "editing", "recipe", "published")
    for student in students:
        scores = [f"{student.scores[b]:.2f}" if b in student.scores else "" for b in BENCHES]
        digest, when = student.recipe_digest, student.created[:16].replace("T", " ")
        table.add_row(student.name, student.base, str(student.nfe), *scores, digest, when)
    Console().print(table)


def status_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints a study's trials, as `studies.commands.status` has them."""
    names = Column("trial", overflow="fold")
    table = Table(names, "state", "updates", "text to image", "editing")
    for row in rows:
        scores = [f"{row['scores'][b]:.2f}" if b in row["scores"] else "" for b in BENCHES]
        table.add_row(row["trial"], row["state"], f"{row['updates']}/{row['of']}", *scores)
    finished = sum(row["state"] == "finished" for row in rows)
    Console().print(table, f"{finished} of {len(rows)} trials finished", highlight=False)


def data_table(recipe: Recipe, found: Description) -> None:
    """Prints what a run will see, as `data.describe.describe` has it."""
    console = Console()
    table = Table("task", "category", "share", "unique cases", "samples", "passes")
    for task, categories in found.uses.items():
        for name, use in categories.items():
            samples, passes = f"{use.samples:,.0f}", f"{use.passes:.2f}"
            table.add_row(task, name, f"{use.share:.1%}", f"{use.unique:,}", samples, passes)
        table.add_section()
    updates = recipe.training.iterations
    console.print(f"{recipe.name}: {found.samples:,} samples in {updates:,} updates", table)
    table = Table("task", "output", "references", "cases")
    for layout in found.layouts:
        references = ", ".join(map(_shape, layout.references))
        table.add_row(layout.task, _shape(layout.output), references, f"{layout.cases:,}")
    console.print("layouts, height x width in pixels; one layout per micro-batch", table)
    console.print(_cache(found), highlight=False)
    for line in found.complaints:
        console.print(line, highlight=False, soft_wrap=True)


def _with_interval(score: float, interval: Sequence[float]) -> str:
    return f"{score:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _cache(found: Description) -> str:
    text = f"conditions: {found.encoded:,} of {found.cases:,} cases encoded, {_mb(found.bytes)}"
    if found.encoded < found.cases:
        whole = found.bytes_in_all
        text += f"; all: about {_mb(whole)}" if whole else "; see `flash-ray data encode`"
    return text


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def job_table(jobs: Iterable[JobDetails]) -> None:
    """Prints the submitted jobs, the latest first; drivers that nobody submitted are left out."""
    table = Table(Column("job", overflow="fold"), "status", "started", "minutes")
    sent = [job for job in jobs if job.submission_id]
    for job in sorted(sent, key=lambda job: job.start_time or 0, reverse=True):
        start, end = job.start_time, job.end_time
        started = datetime.fromtimestamp(start / 1000).strftime("%m-%d %H:%M") if start else ""
        minutes = f"{(end - start) / 60_000:.1f}" if start and end else ""
        table.add_row(job.submission_id, job.status.value, started, minutes)
    Console().print(table, f"{len(sent)} jobs", highlight=False)


def search_table(result: Mapping[str, Any]) -> None:
    """Prints the trials of search.json, the highest last score first."""
    rows = sorted(result["trials"], key=lambda row: -_last(row))
    updates = sorted({point[0] for row in rows for point in row["points"]})
    paths = list(rows[0]["values"])
    table = Table(*paths, "state", *(f"at {update}" for update in updates))
    for row in rows:
        scores = {point[0]: f"{point[1]:.2f}" for point in row["points"]}
        state = "best" if row["trial"] == result["best"] else row["state"]
        values = [str(row["values"][path]) for path in paths]
        table.add_row(*values, state, *(scores.get(update, "") for update in updates))
    Console().print(table)


def _last(row: Mapping[str, Any]) -> float:
    return row["points"][-1][1] if row["points"] else 0.0
