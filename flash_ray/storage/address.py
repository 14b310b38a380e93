"""Addresses of buckets and of S3 servers: which part of one is wrong, and where AWS's files put it.

The problems never quote an address: somebody may have put a secret into it.
"""

import re
from urllib.parse import SplitResult, urlsplit

NO_LOGIN = "put a login into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def split_address(url: str) -> SplitResult:
    """The parts of an address; all empty where it cannot be taken apart, as http://[ cannot."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def bucket_problem(url: str) -> str | None:
    """What is wrong with an s3://bucket/prefix; None if nothing is."""
    parts = split_address(url)
    bucket = parts.netloc
    if parts.scheme != "s3" or not bucket:
        return "not a bucket's address"
    if "@" in bucket or parts.query or parts.fragment:
        return f"not a bucket's address alone: {NO_LOGIN}, leave out what follows ? or #"
    if not 3 <= len(bucket) <= 63:
        return f"its bucket has {len(bucket)} letters, and a bucket's name has 3 to 63"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*[a-z0-9]", bucket):
        return (
            "its bucket is no bucket's name, which is of a-z 0-9 . - and ends in a letter or digit"
        )
    if not re.fullmatch(r"[\w./=-]*", parts.path):
        return "its prefix has other signs than letters, digits and . _ = / -"
    return None


def endpoint_problem(endpoint: str) -> str | None:
    """What is wrong with the http(s)://host:port of an S3 server; None if nothing is."""
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "its port is no number up to 65535, or its host is no address"
    if parts.scheme not in ("http", "https") or not host:
        return "not a server's address"
    if "@" in parts.netloc:
        return f"it holds a login; {NO_LOGIN}"
    if parts.path.strip("/") or parts.query or parts.fragment:
        return "it has a path, where S3 has bucket and key; leave out what follows the port"
    if "_" in host:
        return "its host has an underscore, which no host name has; give its IP address"
    if port == 0 or not re.fullmatch(r"[A-Za-z0-9.:-]+", host):
        return "its host or port cannot be one"
    return None


def configured_endpoint() -> str | None:
    """Where AWS's variables or configuration files say that S3 is; None if they do not.

    Raises:
        botocore.exceptions.BotoCoreError: the files cannot be read, or lack the profile.
    """
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.session import Session

    session = Session()
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    scoped = session.get_scoped_config()
    endpoint = ConfiguredEndpointProvider(session.full_config, scoped, "s3").provide()
    return None if endpoint is None else str(endpoint)
