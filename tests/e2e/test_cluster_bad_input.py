"""What a cluster cannot do is said in one line, with exit code 2: before the job, or as it starts.

The worker node of this cluster has a login that the bucket does not know.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flash_ray.storage.embedded import embedded_store
from tests.helpers.job_server import started

PLACE = "s3://flash-ray/bad"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with embedded_store(tmp_path_factory.mktemp("store")):
        worker = {"AWS_ACCESS_KEY_ID": "another"}
        with started(tmp_path_factory.mktemp("cluster"), **worker) as server:
            yield server


def refuses(ended, *says: str) -> None:
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("flash-ray: ")]
    assert ended.stderr == f"{line}\n"
    for words in says:
        assert words in line


def job_refuses(ended, *says: str) -> None:
    """The line comes through --follow, as the job's last."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("flash-ray: ")
    for words in says:
        assert words in last


def test_no_address(flash_ray):
    refuses(flash_ray("jobs", "list"), "--address: missing", "RAY_API_SERVER_ADDRESS")
    refuses(flash_ray("jobs", "list", "--address", "head:8265"), "'head:8265' is no job server")
    ended = flash_ray("jobs", "list", "--address", "http://me:word@head:8265")
    refuses(ended, "without a login")
    assert "word" not in ended.stderr


def test_nobody_there(flash_ray):
    words = ("submit", "encode", "miniature", "--store", PLACE)
    ended = flash_ray(*words, "--address", "http://127.0.0.1:9")
    refuses(ended, "--address: http://127.0.0.1:9 cannot be reached")


def test_tokens(flash_ray, server, tmp_path):
    words = ("jobs", "list", "--address", server.address)
    refuses(flash_ray(*words), "asks for a token and none was sent", "RAY_AUTH_TOKEN_PATH")
    ended = flash_ray(*words, RAY_AUTH_TOKEN="another-word")
    refuses(ended, "rejects the token that was sent", "RAY_AUTH_TOKEN_PATH")
    assert "another-word" not in ended.stderr


def test_another_version_of_ray(flash_ray):
    class Older(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"version": "4", "ray_version": "2.40.0"}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Older) as older:
        threading.Thread(target=older.serve_forever, daemon=True).start()
        ended = flash_ray("jobs", "list", "--address", f"http://127.0.0.1:{older.server_port}")
        older.shutdown()
    refuses(ended, "runs Ray 2.40.0", "this machine Ray 2.")


def test_no_such_job(flash_ray, server):
    words = ("jobs", "stop", "nothing", "--address", server.address)
    refuses(flash_ray(*words, **server.variables), "JOB: no job 'nothing'")


def test_no_bucket_for_a_cluster(flash_ray, server, small):
    words = ("submit", "distill", "miniature", *small, "--address", server.address)
    refuses(flash_ray(*words, **server.variables), "runtime.storage.url: 'embedded'")


@pytest.mark.slow
def test_a_workers_image_with_an_old_package(flash_ray, small, tmp_path):
    folder = tmp_path / "image" / "boto3-0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: boto3\nVersion: 0.1\n")
    (tmp_path / "cluster").mkdir()
    with embedded_store(tmp_path / "store"):
        with started(tmp_path / "cluster", PYTHONPATH=str(folder.parent)) as server:
            ended = submit(flash_ray, server, "old", *small)
    job_refuses(ended, "image: lacks boto3", "(has 0.1)", "worker node", "--pip")


def submit(flash_ray, server, name, *words):
    settings = ("--name", name, "--set", f"runtime.storage.url={PLACE}", *words)
    words = ("submit", "distill", "miniature", *settings, "--address", server.address, "--follow")
    return flash_ray(*words, **server.variables)


def test_no_place_for_the_trainers(flash_ray, server, small):
    ended = submit(flash_ray, server, "wide", *small, "--set", "runtime.num_workers=2")
    job_refuses(ended, "runtime.num_workers: the run needs 2 trainer, the cluster has 1")


def test_no_gpu(flash_ray, server, small):
    ended = submit(flash_ray, server, "gpu", *small, "--set", "runtime.gpu=true")
    job_refuses(ended, "GPU, the cluster has 0", "no node type brings enough nodes")


def test_a_bucket_that_refuses_the_workers(flash_ray, server, small):
    ended = submit(flash_ray, server, "deaf", *small)
    job_refuses(ended, f"runtime.storage.url: {PLACE}", "refused the credentials", "worker node")


@pytest.mark.slow
def test_a_studys_bucket_that_refuses_the_workers(flash_ray, server, base, tmp_path):
    study = {
        "name": "deaf",
        "recipe": "miniature",
        "seeds": [0],
        "budget": {"iterations": 1},
        "cases": {"t2i": 1},
        "arms": {"one": {}, "two": {"tasks": {"t2i": 1, "edit": 3}}},
        "set": {"base": str(base), "data.num_cases": 8, "runtime.num_workers": 1},
    }
    (tmp_path / "deaf.yaml").write_text(json.dumps(study))
    words = ("submit", "study", "deaf.yaml", "--out", str(tmp_path / "out"), "--store", PLACE)
    ended = flash_ray(*words, "--address", server.address, "--follow", **server.variables)
    job_refuses(ended, f"runtime.storage.url: {PLACE}", "refused the credentials", "worker node")
