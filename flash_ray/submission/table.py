"""The table of jobs."""

from collections.abc import Iterable
from datetime import datetime

from ray.job_submission import JobDetails
from rich.console import Console
from rich.table import Column, Table


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
