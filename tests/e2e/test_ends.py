"""Commands seen from outside: their ports are the machine's alone, their words their own, and when
they have ended nothing of them is left."""

import re
import signal

import pytest
import yaml

from flash_ray.cluster.session import free_ports
from flash_ray.serving.tokens import add_token
from tests.helpers.watched import watch

pytestmark = pytest.mark.slow  # each starts a Ray of its own
OWN_LINE = re.compile(r" *\d+ s  \S.*|flash-ray: \S.*")
LONG = ("--set", "training.iterations=100000")


def closed_and_clean(ended):
    assert ended.open_to_others == set()
    assert len(ended.ports) > 10, "Ray's ports were not seen"
    assert (ended.token_mode, ended.folder_modes) == (0o600, {0o700})
    assert ended.left == []
    assert [name for name in ended.temporary if not name.startswith("torchinductor_")] == []


def test_a_run_says_its_own_lines_only_and_leaves_nothing(tmp_path, small):
    words = ("distill", "miniature", "--store", "store", *small)
    ended = watch([*words, "--set", "training.iterations=1"], tmp_path)
    assert ended.code == 0, ended.err
    assert [line for line in ended.err.splitlines() if not OWN_LINE.fullmatch(line)] == []
    assert ended.out == "s3://flash-ray/students/miniature\n"
    closed_and_clean(ended)


def test_a_demo_opens_no_port_to_others_and_leaves_nothing(tmp_path, small):
    words = ("demo", "--out", "demo", "--cases", "1", *small)
    ended = watch([*words, "--set", "training.iterations=1"], tmp_path)
    assert ended.code == 0, ended.err
    closed_and_clean(ended)


def test_a_study_opens_no_port_to_others_and_leaves_nothing(tmp_path, base):
    small = {"base": str(base), "data.num_cases": 8, "runtime.num_workers": 1}
    study = {
        "name": "small",
        "recipe": "miniature",
        "seeds": [0],
        "budget": {"iterations": 1},
        "cases": {"t2i": 1},
        "arms": {"images": {}, "edits": {"tasks": {"t2i": 1, "edit": 3}}},
        "set": {**small, "runtime.micro_batch_size": 4},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    ended = watch(["study", "run", "study.yaml", "--store", "store", "--out", "results"], tmp_path)
    assert ended.code == 0, ended.err
    closed_and_clean(ended)


@pytest.mark.parametrize(
    ("number", "line", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)],
)
def test_a_run_that_is_stopped_says_so_in_one_line(tmp_path, small, number, line, code):
    words = ["distill", "miniature", "--store", "store", *small, *LONG]
    ended = watch(words, tmp_path, "distill: 1/", number)
    assert ended.code == code, ended.err
    assert ended.err.endswith(f"\nflash-ray: {line}\n")
    assert [one for one in ended.err.splitlines() if not OWN_LINE.fullmatch(one)] == []
    closed_and_clean(ended)


def test_a_server_for_others_opens_its_own_port_alone(tmp_path, base):
    (port,) = free_ports(1)
    add_token(tmp_path / "tokens.json", "ann", "generate")
    words = ["serve", "miniature", "--set", f"base={base}", "--port", str(port)]
    words += ["--host", "0.0.0.0", "--tokens", str(tmp_path / "tokens.json")]
    ended = watch(words, tmp_path, "serving at", signal.SIGTERM)
    assert ended.code == 143, ended.err
    assert ended.open_to_others == {("0.0.0.0", port)}
    assert len(ended.ports) > 10


def test_a_server_that_is_terminated_says_so_in_one_line(tmp_path, base):
    (port,) = free_ports(1)
    words = ["serve", "miniature", "--set", f"base={base}", "--port", str(port)]
    ended = watch(words, tmp_path, "serving at", signal.SIGTERM)
    assert ended.code == 143, ended.err
    assert ended.err.endswith("\nflash-ray: terminated\n")
    assert port in ended.ports and "(raylet)" not in ended.err and "\x1b" not in ended.err
    assert re.findall(r"http://\S+", ended.err) == [f"http://127.0.0.1:{port}"]
    closed_and_clean(ended)
