"""Stores without a server: names, URLs, and what a user reads when nothing answers."""

import pickle
import socket
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from flash_ray.errors import UserError
from flash_ray.storage.address import bucket_problem
from flash_ray.storage.s3 import Store, check_name, s3_filesystem, train_storage

SECRET = "do-not-tell-anyone-0123456789"


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of a test, and no real ones."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.parametrize("name", ["a", "qwen-4.steps_1", "0", "a" * 100])
def test_plain_names_pass(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize("name", ["", "A", "../a", ".a", "a/b", "a b", "a\n", "-a", "a" * 101])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="^name: .* is not a name"):
        check_name("name", name)


def test_from_url() -> None:
    assert Store.from_url("s3://b/p/q/") == Store("b", "p/q")
    assert Store.from_url("s3://b", "http://h:1") == Store("b", "", "http://h:1")
    assert Store("b", "p").url("x/y") == "s3://b/p/x/y"
    assert Store("b").url() == "s3://b"


@pytest.mark.parametrize(
    "url",
    ["", "b", "/tmp/x", "https://h/b", "s3://", "s3:///x", "s3://b?x=1", f"s3://u:{SECRET}@b"],
)
def test_a_malformed_url_is_refused_without_its_login(url: str) -> None:
    with pytest.raises(UserError, match="^runtime.storage.url: .*allowed: s3://bucket") as refusal:
        Store.from_url(url)
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("endpoint", ["", "host:9000", "ftp://h", f"https://u:{SECRET}@h"])
def test_a_malformed_endpoint_is_refused_without_its_login(endpoint: str) -> None:
    with pytest.raises(UserError, match="^runtime.storage.endpoint: ") as refusal:
        Store.from_url("s3://b", endpoint)
    assert SECRET not in str(refusal.value)


def test_a_malformed_endpoint_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "not a url")
    with pytest.raises(UserError, match="that is no server; correct .*AWS_ENDPOINT_URL_S3"):
        Store("b").check()
    with pytest.raises(UserError, match="^AWS_ENDPOINT_URL_S3, .*not a server's address"):
        Store.from_url("s3://b")


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://h:9000/s3", "it has a path"),
        ("http://h:9000?x=1", "it has a path"),
        ("http://my_minio:9000", "underscore"),
        ("http://h:99999", "its port"),
        ("http://h:x", "its port"),
        ("http://h h", "cannot be one"),
    ],
)
def test_the_wrong_part_of_an_endpoint_is_named(endpoint: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^runtime.storage.endpoint: .*{said}"):
        Store.from_url("s3://b", endpoint)


@pytest.mark.parametrize("endpoint", ["https://h", "http://h:1/", "http://[::1]:9", "http://a-b.c"])
def test_plain_endpoints_pass(endpoint: str) -> None:
    assert Store.from_url("s3://b", endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://x/y", "1 letters"),
        ("s3://My-Bucket", "a-z 0-9"),
        ("s3://my_bucket", "a-z 0-9"),
        ("s3://bucket/a b", "its prefix"),
        (f"s3://u:{SECRET}@bucket", "a login"),
        ("s3:///x", "not a bucket's address"),
        ("s3://[", "not a bucket's address"),
    ],
)
def test_the_wrong_part_of_a_bucket_is_named(url: str, said: str) -> None:
    problem = bucket_problem(url)
    assert problem and said in problem and SECRET not in problem
    assert bucket_problem("s3://bucket/a/b_c=d.e") is None


CONFIGURATION = """\
[default]
endpoint_url = http://127.0.0.1:11
[profile minio]
services = mine
[services mine]
s3 =
  endpoint_url = http://127.0.0.1:12
"""


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, "http://127.0.0.1:11"),
        ({"AWS_PROFILE": "minio"}, "http://127.0.0.1:12"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:13"}, "http://127.0.0.1:13"),
        ({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, None),
    ],
)
def test_the_endpoint_of_the_configuration_is_boto3s_and_pyarrows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict, endpoint: str | None
) -> None:
    (tmp_path / "config").write_text(CONFIGURATION)
    for name, value in {"AWS_CONFIG_FILE": str(tmp_path / "config"), **variables}.items():
        monkeypatch.setenv(name, value)
    for store in (Store.from_url("s3://bucket"), Store("bucket")):
        given = {} if endpoint is None else {"endpoint_override": endpoint}
        assert s3_filesystem(store).equals(S3FileSystem(region="us-east-1", **given))
        if endpoint:
            with pytest.raises(UserError, match=f"at {endpoint} cannot be reached"):
                store.check()
    assert Store.from_url("s3://bucket").endpoint == endpoint
    assert Store.from_url("s3://bucket", "http://127.0.0.1:14").server == "http://127.0.0.1:14"


def test_a_profile_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UserError, match="AWS's configuration files cannot be used .*nobody"):
        Store.from_url("s3://bucket")


def test_an_unreachable_server_is_one_line_with_its_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match=f"s3://b/p at {address} cannot be reached") as refusal:
            Store("b", "p", address).check()
    assert "\n" not in str(refusal.value) and SECRET not in str(refusal.value)


def test_without_credentials_the_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(UserError, match="needs credentials; set AWS_ACCESS_KEY_ID"):
        Store("b", "", "http://127.0.0.1:1").check()


def test_pickles_hold_no_secret() -> None:
    store = Store("b", "p", "http://127.0.0.1:1")
    path, filesystem = train_storage(store, "run-1")  # this also creates the boto3 client
    assert path == "b/p/runs/run-1"
    data = pickle.dumps((store, filesystem))
    assert SECRET.encode() not in data and b"someone" not in data
    again, filesystem_again = pickle.loads(data)
    assert again == store and filesystem_again.equals(filesystem)
