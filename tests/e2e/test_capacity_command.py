"""`python -m flash_ray.capacity`: what a user types, and what is refused."""

import subprocess
import sys

import pytest


def capacity(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flash_ray.capacity", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_prints_assumptions_work_and_plans():
    ended = capacity("qwen-image-2.1", "--gpus", "8", "--set", "mfu=0.35")
    assert ended.returncode == 0, ended.stderr
    assert "7,115,124,736 parameters" in ended.stdout
    assert "mfu=0.35" in ended.stdout
    assert "fake-score updates" in ended.stdout
    assert "inside" in ended.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "mfu=2"], "mfu"),
        (["--gpus", "1"], "--gpus: 1"),
        (["no-such-recipe"], "no-such-recipe"),
        (["--gpus", "many"], "--gpus"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, says):
    ended = capacity(*words)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
