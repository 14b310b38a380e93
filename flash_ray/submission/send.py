"""Sends a job once: its files and this flash_ray travel with it, the same job is not sent twice."""

import re
import shlex
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import flash_ray
from flash_ray.errors import UserError
from flash_ray.requirements import FILE, pins, requirements
from flash_ray.submission.follow import wait
from flash_ray.submission.job import Job

ENTRY = "python -m flash_ray.submission.start"
SAYS = "flash-ray: "
STARTING = "No available agent"  # a job server says so until the nodes have registered with it
PATIENCE_S = 25.0


def send(client: JobSubmissionClient, job: Job, again: bool = False, pip: bool = False) -> str:
    """Submits the job; returns its id.

    No credentials travel: whoever may see the dashboard sees what was sent. The nodes have them.

    Args:
        again: sends a job that has ended once more.
        pip: has the nodes install flash_ray's requirements, at this machine's versions.

    Raises:
        UserError: it runs already, it has ended and `again` is false, or the server refuses it.
    """
    name = free_id(job.id, client.list_jobs(), again)
    wanted = requirements()
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        for file, text in {**job.files, FILE: "\n".join(wanted)}.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        environment: dict[str, Any] = {
            "working_dir": folder,
            # The package's folder, be it installed or a checkout; it wins over the image's.
            "py_modules": [str(Path(flash_ray.__file__).parent)],
            "excludes": ["__pycache__"],
        }
        if pip:
            environment["pip"] = pins(wanted)
        if job.gpus:
            _refuse_unplaced(client, environment, f"GPU={job.gpus}")
        try:
            return _submitted(
                client,
                entrypoint=f"{ENTRY} {shlex.join([*job.words, *job.repeats])}",
                submission_id=name,
                runtime_env=environment,
                metadata=job.metadata,
                entrypoint_num_gpus=job.gpus or None,
            )
        except RuntimeError as error:
            free_id(job.id, client.list_jobs(), again)  # another may have sent it meanwhile
            raise UserError(
                f"--address: the job server refused {name}: {_last_line(error)}; see its log"
            ) from error


def _submitted(client: JobSubmissionClient, **job: Any) -> str:
    """Submits a job; waits for a job server that has just come up. Raises RuntimeError."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if STARTING not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1.0)


def _refuse_unplaced(client: JobSubmissionClient, environment: dict[str, Any], what: str) -> None:
    """Raises UserError if no node can come that offers it, as a job on the head finds out."""
    name = _submitted(
        client, entrypoint=f"python -m flash_ray.submission.check {what}", runtime_env=environment
    )
    ended = wait(client, name)
    said = [x for x in client.get_job_logs(name).splitlines() if x.startswith(SAYS)]
    client.delete_job(name)
    if ended.status != JobStatus.SUCCEEDED:
        raise UserError(said[-1].removeprefix(SAYS) if said else f"{name}: {ended.message}")


def free_id(wanted: str, jobs: Iterable[JobDetails], again: bool) -> str:
    """`wanted`, or `wanted`-2 and so on for one that is sent again.

    Raises:
        UserError: it runs already, or has ended and `again` is false.
    """
    same = [j for j in jobs if re.fullmatch(rf"{re.escape(wanted)}(-\d+)?", j.submission_id or "")]
    for job in same:
        if not job.status.is_terminal():
            raise UserError(
                f"job: {job.submission_id} runs already ({job.status.value}); allowed: once at a "
                f"time; see `flash-ray jobs logs {job.submission_id} --follow`, or stop it"
            )
    if same and not again:
        last = max(same, key=lambda job: job.start_time or 0)
        raise UserError(
            f"job: {last.submission_id} has ended ({last.status.value}); allowed: --again to send "
            f"it once more; see `flash-ray jobs logs {last.submission_id}` first"
        )
    return f"{wanted}-{len(same) + 1}" if same else wanted


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().rstrip(".").splitlines()[-1]
