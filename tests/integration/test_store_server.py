"""The store against a real S3 server: races, refusals, restarts."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import psutil
import pytest

from flash_ray.errors import UserError
from flash_ray.storage.embedded import embedded_store, open_store
from flash_ray.storage.s3 import Store, train_storage


def test_objects_come_back(store: Store, tmp_path: Path) -> None:
    store = Store(store.bucket, "round/trip", store.endpoint)
    store.check()
    data = os.urandom(9 << 20)  # two parts
    (tmp_path / "up").write_bytes(data)
    store.put_file(tmp_path / "up", "a/big")
    store.get_file("a/big", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == data
    assert store.get_bytes("a/none") is None
    with pytest.raises(UserError, match="cannot read a/none: there is no such object"):
        store.get_file("a/none", tmp_path / "none")
    assert list(store.list()) == ["a/big"]  # the probe of check() is gone
    store.delete("a/big")
    assert list(store.list()) == []


def test_folders_are_listed_beyond_one_page(store: Store) -> None:
    store = Store(store.bucket, "many/folders", store.endpoint)
    names = [f"folder-{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put_bytes(f"a/{name}/deep/object", b""), names))
    store.put_bytes("a/object", b"")
    assert list(store.folders("a/")) == names
    assert list(store.folders("b/")) == []


def test_a_prefix_is_deleted_whole_and_nothing_else(store: Store) -> None:
    for key in ("gone/a", "gone/deep/b", "gone-not/c", "kept/d"):
        store.put_bytes(key, b"")
    store.delete_all("gone/")
    assert list(store.list("gone")) == ["gone-not/c"]
    assert list(store.list("kept/")) == ["kept/d"]
    store.delete_all("gone/")  # no error where there is nothing


def test_of_16_writers_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: store.put_bytes_if_absent("race", b"%d" % i), range(16)))
    assert won.count(True) == 1
    assert store.get_bytes("race") == b"%d" % won.index(True)


def test_a_retry_that_finds_its_own_object_has_won(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = boto3.Session.client

    def connect_twice_written(*arguments, **options):
        client = connect(*arguments, **options)
        put = client.put_object

        def put_twice(**fields):  # what botocore does when the first answer is lost
            put(**fields)
            return put(**fields)

        client.put_object = put_twice
        return client

    monkeypatch.setattr(boto3.Session, "client", connect_twice_written)
    again = Store(store.bucket, "", store.endpoint)
    assert again.put_bytes_if_absent("retried", b"mine") is True
    assert store.put_bytes_if_absent("retried", b"other") is False


@pytest.mark.parametrize(
    ("variable", "code"),
    [
        ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials(
    store: Store, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv(variable, "mistyped-thing")
    with pytest.raises(UserError, match=f"refused the credentials .{code}.; set AWS_") as refusal:
        Store(store.bucket, "", store.endpoint).check()
    assert secret not in str(refusal.value) and "mistyped-thing" not in str(refusal.value)


def test_no_such_bucket(store: Store) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket at http://127.*does not exist"):
        Store("no-such-bucket", "", store.endpoint).check()


@pytest.mark.parametrize(
    ("bucket", "denied", "said"),
    [
        ("read-only", "s3:PutObject", "is read-only for these credentials; allow s3:PutObject"),
        ("write-only", "s3:GetObject", "forbids these credentials to read"),
        ("no-list", "s3:ListBucket", "forbids these credentials to list"),
    ],
)
def test_a_bucket_that_forbids(store: Store, bucket: str, denied: str, said: str) -> None:
    other = Store(bucket, "p", store.endpoint)
    client = boto3.client("s3", endpoint_url=store.endpoint)
    client.create_bucket(Bucket=bucket)
    where = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    rule = {"Effect": "Deny", "Principal": "*", "Action": [denied], "Resource": where}
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    with pytest.raises(UserError, match=f"s3://{bucket}/p at http://127.* {said}"):
        other.check()


def test_a_proxy_is_not_asked_for_loopback(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    Store(store.bucket, "", store.endpoint).check()
    path, filesystem = train_storage(store, "proxied")
    filesystem.create_dir(path)


def test_another_process_uses_a_pickled_store(store: Store) -> None:
    path, filesystem = train_storage(store, "pickled")
    data = pickle.dumps((store, path, filesystem))
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in data
    code = (
        "import pickle, sys\n"
        "import pyarrow.fs\n"  # as Ray Train does: it makes pyarrow end cleanly
        "store, path, filesystem = pickle.load(sys.stdin.buffer)\n"
        "filesystem.create_dir(path)\n"
        "with filesystem.open_output_stream(path + '/x') as file: file.write(b'there')\n"
        "print(store.get_bytes('runs/pickled/x').decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.strip() == b"there"


def _weed() -> psutil.Process:
    """The newest server that this process started."""
    children = [child for child in psutil.Process().children() if child.name() == "weed"]
    return max(children, key=lambda child: child.create_time())


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # an orphan waits for init to collect it
    except psutil.NoSuchProcess:
        return True


def test_a_killed_server_keeps_its_data_and_credentials(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    before = dict(os.environ)
    with embedded_store(folder) as first:
        assert first.put_bytes_if_absent("kept", b"data")
        keys = os.environ["AWS_SECRET_ACCESS_KEY"]
        server = _weed()
        server.send_signal(signal.SIGKILL)
        server.wait()
        with pytest.raises(UserError, match="cannot be reached"):
            first.check()
    assert dict(os.environ) == before
    with embedded_store(folder) as second:
        assert second.get_bytes("kept") == b"data"
        assert os.environ["AWS_SECRET_ACCESS_KEY"] == keys
        files = [path for path in folder.rglob("*") if path.is_file()]
        holders = [path.name for path in files if keys.encode() in path.read_bytes()]
        assert holders == ["credentials.json"]
        assert (folder / "credentials.json").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
        server = _weed()
    assert _ended(server)


OWNER = """
import sys, time
from pathlib import Path
from flash_ray.storage.embedded import embedded_store
with embedded_store(Path(sys.argv[1])) as store:
    print(store.endpoint.rpartition(":")[2], flush=True)
    time.sleep(600)
"""


def test_the_next_store_clears_what_a_killed_owner_left_and_that_alone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    ) as owner:
        port = owner.stdout.readline().strip()
        owner.kill()
    left = Path(f"/tmp/seaweedfs-s3-{port}.sock")
    while _listens(left):
        time.sleep(0.1)
    assert left.is_socket()  # if weed leaves none any more, nothing is to be cleared
    with embedded_store(tmp_path / "other") as other:
        assert not left.exists()
        own = Path(f"/tmp/seaweedfs-s3-{other.endpoint.rpartition(':')[2]}.sock")
        assert own.is_socket()
        with embedded_store(tmp_path / "third"):
            assert own.is_socket()
        other.check()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def test_work_that_fails_with_its_store_says_so_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="died .by SIGKILL; log: .*weed.log.*--resume") as end:
        with embedded_store(tmp_path / "embedded"):
            _weed().kill()
            raise RuntimeError("what came of it")
    assert "\n" not in str(end.value)
    with pytest.raises(RuntimeError, match="of another kind"), embedded_store(tmp_path / "other"):
        raise RuntimeError("of another kind")


def test_work_that_fails_with_its_bucket_says_so_in_one_line(tmp_path: Path) -> None:
    with embedded_store(tmp_path) as server:
        with (
            pytest.raises(UserError, match="s3://flash-ray at http://127.* cannot be reached"),
            open_store(server.url(), server.endpoint),
        ):
            _weed().kill()
            raise RuntimeError("what came of it")


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        with pytest.raises(UserError, match=f"no space in {disk}/store .[0-9]+ MB free.*--resume"):
            with embedded_store(disk / "store") as store:
                for number in range(12):
                    store.put_bytes(f"{number}", os.urandom(6 << 20))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_server_listens_on_loopback_only(store: Store) -> None:
    listening = [c for c in _weed().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 10 and {c.laddr.ip for c in listening} == {"127.0.0.1"}


def test_the_server_ends_with_a_killed_parent_and_starts_again(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    code = (
        "import pathlib, sys, time\n"
        "from flash_ray.storage.embedded import embedded_store\n"
        "with embedded_store(pathlib.Path(sys.argv[1])) as store:\n"
        "    store.put_bytes_if_absent('kept', b'data')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
    (server,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    with embedded_store(folder) as again:  # waits for the orphan's end
        assert again.get_bytes("kept") == b"data"
        assert _ended(server)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with embedded_store(tmp_path) as used:
        with pytest.raises(UserError, match="is in use by another run; wait for its end"):
            with embedded_store(tmp_path, deadline_s=1):
                pass
        used.check()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("not a folder")
    with pytest.raises(UserError, match="did not start .log: .*weed.log.; its end: .*filerldb2"):
        with embedded_store(tmp_path):
            pass


def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(UserError, match="credentials.json: is corrupt; remove it"):
        with embedded_store(tmp_path):
            pass


def test_a_store_gives_back_the_disk_of_what_was_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "embedded"
    with embedded_store(folder) as store:
        for number in range(6):
            store.put_bytes(f"old/{number}", os.urandom(5 << 20))
        store.put_bytes("kept", b"data" * 1000)
        assert _disk(folder) > 30 << 20
        store.delete_all("old/")
        time.sleep(3)  # SeaweedFS forgets deleted content once a second
    assert _disk(folder) < 3 << 20
    with embedded_store(folder) as again:
        assert again.get_bytes("kept") == b"data" * 1000


def _disk(folder: Path) -> int:
    """Bytes on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
