"""S3 object storage through boto3: one bucket and prefix, with errors that a user can act on."""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as failures
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.loaders import Loader, create_loader

from flash_ray.errors import UserError
from flash_ray.storage.address import configured_endpoint, endpoint_problem, split_address

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem


BAD_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
FORBIDDEN = {"AccessDenied", "AllAccessDisabled", "MethodNotAllowed", "403", "405"}
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def code_of(error: failures.ClientError) -> str:
    """The S3 error code of a server's refusal."""
    return error.response.get("Error", {}).get("Code", "no code")


def describe_failure(error: BaseException, doing: str) -> str:
    """What went wrong and the cure: a predicate whose subject is the store, without a secret."""
    if isinstance(error, failures.ClientError):
        code = code_of(error)
        if code == "NoSuchBucket":
            return "does not exist; create the bucket, or correct the URL"
        if code in ("NoSuchKey", "404"):
            return f"cannot {doing}: there is no such object; write it again"
        if code in BAD_CREDENTIALS:
            return f"refused the credentials ({code}); {CREDENTIALS} to those of that server"
        if code in FORBIDDEN:
            return f"forbids these credentials to {doing} ({code}); allow it, or use others"
        return f"answered {code} when asked to {doing}; see that server's log"
    no_login = (failures.NoCredentialsError, failures.PartialCredentialsError)
    if isinstance(error, no_login):
        return f"needs credentials; {CREDENTIALS}"
    if isinstance(error, (failures.HTTPClientError, failures.ConnectionError)):
        return (
            f"cannot be reached ({type(error).__name__}); start that server, or correct "
            "runtime.storage.endpoint or AWS_ENDPOINT_URL_S3"
        )
    return f"cannot be used to {doing} ({type(error).__name__}); correct the URL or AWS_* variables"


CUT_SHORT = (failures.IncompleteReadError, failures.ResponseStreamingError)


class ObjectRefused(UserError):
    """The server answers, but does not give out this one object.

    Args:
        message: for the user.
        code: the server's, such as AccessDenied.
    """

    def __init__(self, message: str, code: str):
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_name(field: str, name: str) -> str:
    """Return `name` if it is safe in a key, a path and a URL; UserError otherwise."""
    if not NAME.fullmatch(name) or len(name) > 100:
        raise UserError(
            f"{field}: {name!r} is not a name; allowed: up to 100 of a-z 0-9 . _ - , "
            "the first a letter or digit; choose another"
        )
    return name


@dataclass(frozen=True)
class Store:
    """A bucket of an S3 server; keys are relative to `prefix`.

    Credentials are never part of it: every process reads its own AWS_* variables, so that a
    pickled Store holds no secret. `endpoint` None means what AWS's variables or configuration files
    say, else Amazon; `from_url` asks them once, for all processes that the Store is sent to.
    Every method raises UserError when the server cannot be used.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None

    @classmethod
    def from_url(cls, url: str, endpoint: str | None = None) -> "Store":
        """A Store at `s3://bucket[/prefix]`; UserError where a URL is malformed."""
        parts = split_address(url)
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        if parts.scheme != "s3" or not parts.netloc or not plain:
            raise UserError(
                f"runtime.storage.url: {_without_login(url)!r} is not a bucket; "
                "allowed: s3://bucket or s3://bucket/prefix"
            )
        where = "runtime.storage.endpoint"
        if endpoint is None:
            where = "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or endpoint_url in AWS's files"
            endpoint = _configured_endpoint()
        if endpoint is not None and (problem := endpoint_problem(endpoint)):
            raise UserError(
                f"{where}: {_without_login(endpoint)!r}: {problem}; allowed: http(s)://host[:port]"
            )
        return cls(parts.netloc, parts.path.strip("/"), endpoint)

    def __getstate__(self) -> dict[str, Any]:
        return {"bucket": self.bucket, "prefix": self.prefix, "endpoint": self.endpoint}

    @property
    def server(self) -> str:
        """The server's address, for messages: never with a login in it."""
        return _without_login(self._endpoint() or "Amazon S3")

    def url(self, key: str = "") -> str:
        """The s3:// URL of `key`."""
        return f"s3://{self.bucket}/{self._key(key)}".rstrip("/")

    def put_file(self, path: Path, key: str) -> None:
        """Upload a file, in parts when it is large."""
        with self._user_errors(f"write {key}"):
            self._client.upload_file(str(path), self.bucket, self._key(key))

    def get_file(self, key: str, path: Path) -> None:
        """Download an object to `path`."""
        with self._user_errors(f"read {key}"):
            self._client.download_file(self.bucket, self._key(key), str(path))

    def get_bytes(self, key: str, most: int | None = None) -> bytes | None:
        """The object's first `most` bytes, None: all of them; or None if there is no such object.

        Raises:
            ObjectRefused: the server answers, but refuses this object.
            UserError: the server cannot be used.
        """
        with self._user_errors(f"read {key}"):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            except self._client.exceptions.NoSuchKey:
                return None
            except failures.ClientError as error:
                if (code := code_of(error)) in {"NoSuchBucket", *BAD_CREDENTIALS}:
                    raise
                problem = f"{self._subject()} {describe_failure(error, f'read {key}')}"
                raise ObjectRefused(problem, code) from error
            try:
                with closing(answer["Body"]) as body:
                    data: bytes = body.read(most)
            except CUT_SHORT as error:
                problem = f"{self._subject()} does not give out all of {key}; write it again"
                raise ObjectRefused(problem, type(error).__name__) from error
            return data

    def put_bytes_if_absent(self, key: str, data: bytes) -> bool:
        """Create the object; False, and nothing changed, if it exists. Of many writers one wins."""
        writer = uuid.uuid4().hex
        target = {"Bucket": self.bucket, "Key": self._key(key)}
        with self._user_errors(f"write {key}"):
            try:
                self._client.put_object(
                    **target, Body=data, IfNoneMatch="*", Metadata={"writer": writer}
                )
                return True
            except failures.ClientError as error:
                if code_of(error) != "PreconditionFailed":
                    raise
            # A retry after a lost answer meets what it wrote itself: that is no lost race.
            return self._client.head_object(**target)["Metadata"].get("writer") == writer

    def put_bytes(self, key: str, data: bytes) -> None:
        """Create the object, or replace it."""
        with self._user_errors(f"write {key}"):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def list(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with `prefix`, in order."""
        return (key for key, _ in self._listed(prefix))

    def versions(self, prefix: str = "") -> dict[str, str]:
        """The keys that start with `prefix`, in order; a key's text changes with its object."""
        return {key: item["ETag"] for key, item in self._listed(prefix)}

    def _listed(self, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        start = len(self._key(""))
        with self._user_errors(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix)
            )
            for page in pages:
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield item["Key"][start:], item

    def folders(self, prefix: str) -> Iterator[str]:
        """The names between `prefix`, which ends in /, and the next /, in order."""
        start = len(self._key(prefix))
        with self._user_errors(f"list {prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix), Delimiter="/"
            )
            for page in pages:
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"][start:-1]

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of each object whose key starts with `prefix`."""
        return {key: item["Size"] for key, item in self._listed(prefix)}

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with self._user_errors(f"delete {key}"):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_all(self, prefix: str) -> None:
        """Remove every object whose key starts with `prefix`."""
        for key in [*self.list(prefix)]:  # first all keys: the listing must not move meanwhile
            self.delete(key)

    def check(self) -> None:
        """Prove within seconds that listing, writing once, reading and deleting all work."""
        client = self._connect(connect_timeout=2, read_timeout=5, attempts=2)
        with self._user_errors("list"):
            client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1)
        probe = {"Bucket": self.bucket, "Key": self._key(f".probe-{uuid.uuid4().hex}")}
        self._write_probe(client, probe)
        try:
            with self._user_errors("read"):
                if client.get_object(**probe)["Body"].read() != b"probe":
                    raise UserError(
                        f"{self._subject()} does not return what was written; use another"
                    )
            self._validate_overwrite(client, probe)
        finally:
            with self._user_errors("delete"):
                client.delete_object(**probe)

    def _write_probe(self, client: Any, probe: dict[str, str]) -> None:
        with self._user_errors("write"):
            try:
                client.put_object(**probe, Body=b"probe")
            except failures.ClientError as error:
                if code_of(error) not in FORBIDDEN:
                    raise
                raise UserError(
                    f"{self._subject()} is read-only for these credentials; "
                    "allow s3:PutObject and s3:DeleteObject there, or use another bucket"
                ) from error

    def _validate_overwrite(self, client: Any, probe: dict[str, str]) -> None:
        with self._user_errors("write conditionally"):
            try:
                client.put_object(**probe, Body=b"other", IfNoneMatch="*")
            except failures.ClientError as error:
                if code_of(error) == "PreconditionFailed":
                    return
                raise
        raise UserError(
            f"{self._subject()} ignores If-None-Match, so two runs could overwrite each other; "
            "use a server with conditional writes (Amazon S3, SeaweedFS)"
        )

    @cached_property
    def _client(self) -> Any:
        return self._connect(connect_timeout=3, read_timeout=30, attempts=3)

    def _connect(self, connect_timeout: float, read_timeout: float, attempts: int) -> Any:
        """A boto3 client; `attempts` connections to a dead server bound its cost in seconds."""
        endpoint = self._endpoint()
        is_local = urlsplit(endpoint or "").hostname in LOOPBACK
        config = Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            proxies={} if is_local else None,  # a company's proxy cannot reach this machine
        )
        with self._user_errors("connect"):
            core = botocore.session.get_session()
            core.register_component("data_loader", _loader())
            session = boto3.Session(region_name=os.environ.get("AWS_REGION"), botocore_session=core)
            try:
                return session.client("s3", endpoint_url=endpoint, config=config)
            except ValueError as error:  # boto3 has no class of its own for a malformed endpoint
                raise UserError(
                    f"{self._subject()} cannot be used: that is no server; correct "
                    "runtime.storage.endpoint or AWS_ENDPOINT_URL_S3 to http(s)://host[:port]"
                ) from error

    def _endpoint(self) -> str | None:
        return self.endpoint or _configured_endpoint()

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _subject(self) -> str:
        return f"runtime.storage.url: {self.url()} at {self.server}"

    @contextmanager
    def _user_errors(self, doing: str) -> Iterator[None]:
        """Turn what boto3 raises into a UserError: what failed, at which server, and the cure."""
        try:
            yield
        except (failures.BotoCoreError, failures.ClientError, Boto3Error) as error:
            cause = error.__context__ if isinstance(error, Boto3Error) else error
            raise UserError(
                f"{self._subject()} {describe_failure(cause or error, doing)}"
            ) from error


def train_storage(store: Store, run_name: str) -> "tuple[str, S3FileSystem]":
    """(storage_path, storage_filesystem) of a run, for Ray Train's RunConfig."""
    check_name("name", run_name)
    return f"{store.bucket}/{store._key(f'runs/{run_name}')}", s3_filesystem(store)


def s3_filesystem(store: Store) -> "S3FileSystem":
    """pyarrow's view of the store's server; paths begin with the bucket.

    It reads AWS_* in each process, so its pickle holds no secret. A process that unpickles it
    imports pyarrow.fs, as Ray does, or pyarrow crashes at its exit.
    """
    from pyarrow.fs import S3FileSystem

    region = store._client.meta.region_name
    return S3FileSystem(
        endpoint_override=store._endpoint(),
        region=None if region == "aws-global" else region,
    )


@cache
def _loader() -> Loader:
    """What reads botocore's description of S3: once, a tenth of a second, not once a client."""
    return create_loader()


def _configured_endpoint() -> str | None:
    try:
        return configured_endpoint()
    except failures.BotoCoreError as error:
        raise UserError(
            f"AWS's configuration files cannot be used ({' '.join(str(error).split())[:200]}); "
            "correct them, or AWS_PROFILE and AWS_CONFIG_FILE"
        ) from error


def _without_login(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)
