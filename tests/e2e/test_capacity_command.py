"""`flash-ray capacity`: what a user types, and what is refused."""

import pytest


def test_prints_assumptions_work_and_plans(flash_ray_forked):
    ended = flash_ray_forked("capacity", "qwen-image-2.1-full", "--gpus", "8", "--set", "mfu=0.35")
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
        (["--set", "base=/nowhere"], "base: no pipeline in /nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flash_ray_forked, words, says):
    ended = flash_ray_forked("capacity", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr and ended.stderr.startswith("flash-ray: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("config", ["{", "[]", "{}"])
def test_a_base_whose_configuration_cannot_be_read_is_one_line(flash_ray_forked, tmp_path, config):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(config)
    ended = flash_ray_forked("capacity", "--set", f"base={tmp_path}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "config.json cannot be read" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
