"""`flash-ray recipe` and what the command line does with bad input."""

import subprocess
import sys

import pytest

from flash_ray import __version__
from flash_ray.cli.app import main
from flash_ray.recipe import load_recipe


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_show_prints_a_recipe_that_loads(capsys, tmp_path):
    code, out, err = run(capsys, "recipe", "show", "miniature", "--set", "seed=7")
    assert (code, err) == (0, "")
    recipe = load_recipe("miniature", ["seed=7"])
    assert out.startswith(f"# digest: {recipe.digest}\n")
    file = tmp_path / "shown.yaml"
    file.write_text(out)
    assert load_recipe(file) == recipe


def test_check_prints_one_line(capsys):
    code, out, err = run(capsys, "recipe", "check", "miniature")
    assert (code, err) == (0, "")
    assert out == f"OK miniature {load_recipe('miniature').digest}\n"


DATA = (
    "--set",
    "data.source={t2i: prompts.jsonl, edit: edits.jsonl}",
    "--set",
    "data.composition={t2i: {animals: 1}, edit: {food: 1}}",
)


def test_the_large_preset_wants_its_users_data(capsys):
    code, out, err = run(capsys, "recipe", "check", "qwen-image-2.1-full")
    assert (code, out) == (2, "")
    assert (
        "data.source: none in recipe qwen-image-2.1-full; allowed: {t2i: FILE, edit: FILE}" in err
    )
    code, out, err = run(capsys, "recipe", "check", "qwen-image-2.1-full", *DATA)
    assert (code, err) == (0, "") and out.startswith("OK qwen-image-2.1-full ")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (
            ("qwen-image-2.1-full", *DATA, "--set", "data.source=miniature")
            + ("--set", "data.composition={t2i: {portrait: 1}, edit: {scene: 1}}"),
            "data.source",
        ),
        (("miniature", "--set", "base=Qwen/Qwen-Image-2.1"), "data.source"),
        (
            (
                "qwen-image-2.1-full",
                *DATA,
                "--set",
                "evaluation={benchmark: miniature, judge: exact}",
            ),
            "evaluation.judge",
        ),
    ],
)
def test_the_small_worlds_data_and_judge_are_for_its_own_bases(capsys, words, field):
    code, out, err = run(capsys, "recipe", "check", *words)
    assert (code, out) == (2, "")
    assert f"{field}: the small world's is for its own pipelines, and base Qwen/Qwen" in err


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"flash-ray {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("recipe check miniature --set student.step=4", "student.steps"),
        ("recipe check miniature --set student.steps=0", "student.steps"),
        ("recipe show no-such-recipe", "no-such-recipe"),
        ("recipe show", "RECIPE"),
        ("recipe check miniature --frobnicate", "--frobnicate"),
        ("frobnicate", "frobnicate"),
        ("recipe", "command"),
        ("", "command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, args, says):
    code, out, err = run(capsys, *args.split())
    assert (code, out) == (2, "")
    assert err.startswith("flash-ray: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert says in err


def test_installed_command_ends_with_code_2():
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "flash_ray.cli.app",
            "recipe",
            "check",
            "miniature",
            "--set",
            "seed=-1",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("flash-ray: seed: value -1 ")
    assert ended.stderr.count("\n") == 1
