"""Follows a job: its log as it is written, then its end as an exit code."""

import asyncio
import sys
import time

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from flash_ray.errors import UserError

POLL_S = 1.0
DETACHED = 130


def follow(client: JobSubmissionClient, name: str, log: bool = True) -> int:
    """Prints the job's log, or only how it ended, when it has; returns what `exit_code` does.

    Ctrl-C, or a connection that is lost, leaves the job alone; the code is then 130 or 1.
    """
    back = f"it goes on; come back with `flash-ray jobs logs {name} --follow`, end it with "
    back += f"`flash-ray jobs stop {name}`"
    try:
        if log:
            asyncio.run(_print_log(client, name))
        ended = wait(client, name)
    except KeyboardInterrupt:
        print(f"\nflash-ray: detached from {name}: {back}", file=sys.stderr)
        return DETACHED
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        lost = f"lost the connection to {name} ({type(error).__name__})"
        print(f"flash-ray: {lost}: {back}", file=sys.stderr)
        return 1
    if not log:
        print(name, ended.status.value)
    return exit_code(ended)


async def _print_log(client: JobSubmissionClient, name: str) -> None:
    async for text in client.tail_job_logs(name):
        print(text, end="", flush=True)


def wait(client: JobSubmissionClient, name: str) -> JobDetails:
    """The job once it has ended."""
    while not (job := find(client, name)).status.is_terminal():
        time.sleep(POLL_S)
    return job


def exit_code(job: JobDetails) -> int:
    """The entry point's exit code; 1, and a line on stderr, where it has none of its own."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.driver_exit_code:
        # A negative one is a signal's number; shells say it so.
        return job.driver_exit_code if job.driver_exit_code > 0 else 128 - job.driver_exit_code
    reason = (job.message or "no reason given").strip().splitlines()[0]
    print(f"flash-ray: {job.submission_id}: {job.status.value}: {reason}", file=sys.stderr)
    return 1


def find(client: JobSubmissionClient, name: str) -> JobDetails:
    """The job of that id.

    Raises:
        UserError: the cluster has none.
    """
    try:
        return client.get_job_info(name)
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise UserError(
            f"JOB: no job {name!r} on {client.get_address()}; see `flash-ray jobs list`"
        ) from error
