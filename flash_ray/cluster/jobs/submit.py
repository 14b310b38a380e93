"""Sends jobs to a cluster: files and this flash_ray travel along, no job is sent twice."""

import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

import flash_ray
from flash_ray.cluster.environment import REQUIREMENTS, pins, requirements
from flash_ray.cluster.jobs.job import Job
from flash_ray.errors import UserError
from flash_ray.storage.address import split_address

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
ANSWER_S = 10.0  # for the job server's first answer
ENTRYPOINT = "python -m flash_ray.cluster.jobs.entrypoint"
ERROR_PREFIX = "flash-ray: "  # of the line with which the entry point fails
STARTING = "No available agent"  # the job server's answer until nodes have registered with it
STARTING_S = 25.0  # for nodes to register


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the job server.

    Ray itself reads the token: RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or, with
    RAY_AUTH_MODE=token, ~/.ray/auth_token. It travels in a header.

    Args:
        address: http(s)://host:port of the head's dashboard.

    Raises:
        UserError: there is no job server, it rejects the token, or its Ray is another version.
    """
    address = _checked_address(address)
    _validate_reachable(address)
    # Ray takes the variable before the argument.
    os.environ[ADDRESS_VARIABLE] = address
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # it tells of every upload
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(_token_problem(address, error)) from None
    except (RuntimeError, ValueError, KeyError, requests.RequestException) as error:
        raise UserError(_no_job_server(address)) from error
    if client._server_ray_version != ray.__version__:
        raise UserError(
            f"--address: the cluster at {address} runs Ray {client._server_ray_version}, this "
            f"machine Ray {ray.__version__}; allowed: the same; install that version here, or "
            "change the cluster's image"
        )
    return client


def send(client: JobSubmissionClient, job: Job, again: bool = False, pip: bool = False) -> str:
    """Submits the job; returns its id.

    No credentials travel: whoever may see the dashboard sees what was sent. The nodes have them.

    Args:
        again: sends a job that has ended once more.
        pip: has the nodes install flash_ray's requirements, at this machine's versions.

    Raises:
        UserError: it runs already, it has ended and `again` is false, or the server rejects it.
    """
    name = free_id(job.id, client.list_jobs(), again)
    required = requirements(job.extras)
    with tempfile.TemporaryDirectory(prefix="flash-ray-") as folder:
        for file, text in {**job.files, REQUIREMENTS: "\n".join(required)}.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        environment: dict[str, Any] = {
            "working_dir": folder,
            # The package's folder, be it installed or a checkout; it wins over the image's.
            "py_modules": [str(Path(flash_ray.__file__).parent)],
            "excludes": ["__pycache__"],
        }
        if pip:
            environment["pip"] = pins(required)
        try:
            return _submitted(
                client,
                entrypoint=f"{ENTRYPOINT} {shlex.join([*job.words, *job.repeats])}",
                submission_id=name,
                runtime_env=environment,
                metadata=job.metadata,
            )
        except RuntimeError as error:
            free_id(job.id, client.list_jobs(), again)  # another may have sent it meanwhile
            raise UserError(
                f"--address: the job server rejected {name}: {_last_line(error)}; see its log"
            ) from error


def free_id(job_id: str, jobs: Iterable[JobDetails], again: bool) -> str:
    """An id for a job: `job_id`, or `job_id`-2 and so on for one that is sent again.

    Raises:
        UserError: it runs already, or has ended and `again` is false.
    """
    same = [j for j in jobs if re.fullmatch(rf"{re.escape(job_id)}(-\d+)?", j.submission_id or "")]
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
    return f"{job_id}-{len(same) + 1}" if same else job_id


def _checked_address(address: str | None) -> str:
    if not address:
        raise UserError(
            f"--address: missing; allowed: http(s)://HEAD:8265; give it, or set {ADDRESS_VARIABLE}"
        )
    parts = split_address(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        shown = address.rpartition("@")[2]
        raise UserError(
            f"--address: {shown!r} is no job server; allowed: http(s)://HEAD:8265, without a "
            "login; correct it"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _validate_reachable(address: str) -> None:
    # Without a token: whatever it answers, it is there. Ray's client would wait without limit.
    try:
        requests.get(f"{address}/api/version", timeout=ANSWER_S)
    except requests.RequestException as error:
        raise UserError(
            f"--address: {address} cannot be reached ({type(error).__name__}); start the cluster "
            "or the port-forward to its dashboard, or correct the address"
        ) from error


def _token_problem(address: str, error: AuthenticationError) -> str:
    if "required" in error.message:
        problem = "asks for a token and none was sent"
    else:
        problem = "rejects the token that was sent"
    return (
        f"--address: {address} {problem}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a "
        "file with the cluster's token, readable by you only (mode 0600)"
    )


def _no_job_server(address: str) -> str:
    return (
        f"--address: {address} answers, but not as Ray's job server; allowed: http(s)://HEAD:8265; "
        "correct it"
    )


def _submitted(client: JobSubmissionClient, **job: Any) -> str:
    """Submits a job; waits for a job server that has just come up. Raises RuntimeError."""
    until = time.monotonic() + STARTING_S
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if STARTING not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1.0)


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().rstrip(".").splitlines()[-1]
