"""Connects to a cluster's job server; what is wrong with the address or token is one line."""

import os
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from flash_ray.errors import UserError

ADDRESS = "RAY_API_SERVER_ADDRESS"
ANSWER_S = 10.0


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the job server.

    The token is Ray's own matter: RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or, with
    RAY_AUTH_MODE=token, ~/.ray/auth_token. It travels in a header.

    Args:
        address: http(s)://host:port of the head's dashboard.

    Raises:
        UserError: there is no job server, it refuses the token, or its Ray is another version.
    """
    address = _checked(address)
    _refuse_unreachable(address)
    # Ray takes the variable before the argument.
    os.environ[ADDRESS] = address
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


def _checked(address: str | None) -> str:
    if not address:
        raise UserError(
            f"--address: missing; allowed: http(s)://HEAD:8265; give it, or set {ADDRESS}"
        )
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        shown = address.rpartition("@")[2]
        raise UserError(
            f"--address: {shown!r} is no job server; allowed: http(s)://HEAD:8265, without a "
            "login; correct it"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _refuse_unreachable(address: str) -> None:
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
        what = "asks for a token and none was sent"
    else:
        what = "refuses the token that was sent"
    return (
        f"--address: {address} {what}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file "
        "with the cluster's token, readable by you only (mode 0600)"
    )


def _no_job_server(address: str) -> str:
    return (
        f"--address: {address} answers, but not as Ray's job server; allowed: http(s)://HEAD:8265; "
        "correct it"
    )
