"""A user's own prompts and edits: the page's example, mixed sizes, a plug-in judge, bad rows."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import flash_ray as package
from tests.e2e.conftest import Command

PAGE = (Path(package.__file__).parent / "evaluation/README.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## A benchmark of your own\n")[1].split("\n## ")[0]
JUDGE = ("--judge", "sharpness")


@pytest.fixture
def mine(flash_ray: Command, base: Path, tmp_path: Path) -> Path:
    """The recipe that the page calls mine.yaml, on a very small base."""
    file = tmp_path / "mine.yaml"
    file.write_text(flash_ray("recipe", "show", "miniature", "--set", f"base={base}").stdout)
    return file


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """Six prompts and three edits at mixed sizes: a table, and JSONL with a picture by its path."""
    with (tmp_path / "prompts.csv").open("w", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(["caption", "category", "size"])
        sizes = ["", "32x64", "64x32", "", "32x64", "96x32"]
        writer.writerows([f"hill {n}", "land", size] for n, size in enumerate(sizes))
    for name, size in (("wide", (120, 60)), ("tall", (50, 90))):
        Image.new("RGB", size, "teal").save(tmp_path / f"{name}.png")
    rows = [
        {"caption": "make it red", "category": "color", "image": "wide.png"},
        {"caption": "make it blue", "category": "color", "image": "tall.png"},
        {"caption": "join them", "category": "join", "image": ["wide.png", "tall.png"]},
    ]
    (tmp_path / "edits.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    file = tmp_path / "own.yaml"
    file.write_text("t2i: prompts.csv\nedit: edits.jsonl\ncolumns: {prompt: caption}\n")
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "expected"), [("edit", {"color": 2, "join": 1}), ("t2i", {"land": 6})]
)
def test_prompts_and_edits_at_mixed_sizes_are_answered_and_judged_by_a_plug_in(
    flash_ray, installed, mine, own_files, tmp_path, task, expected
):
    words = ("evaluate", "untrained", "--recipe", mine.name, "--task", task, *JUDGE)
    out = ("--benchmark", own_files.name, "--out", f"{task}.json")
    ended = flash_ray(*words, *out, PYTHONPATH=str(installed))
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / f"{task}.json").read_text())
    assert result["benchmark"] == "prompts-edits"
    categories = result["judges"]["sharpness"]["categories"]
    assert {name: row["counted"] for name, row in categories.items()} == expected


@pytest.mark.slow
def test_the_example_of_the_page_runs(flash_ray, mine, tmp_path):
    rows, commands = (
        re.search(rf"```{kind}\n(.*?)```", SECTION, re.DOTALL)[1] for kind in ("json", "sh")
    )
    (tmp_path / "signs.jsonl").write_text(rows, encoding="utf-8")
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "sign.png")
    for line in commands.splitlines():
        ended = flash_ray(*shlex.split(line)[1:])
        assert ended.returncode == 0, ended.stderr
    assert "teacher on signs, text to image, by ocr" in ended.stdout
    assert "wood" in ended.stdout and "metal" in ended.stdout


@pytest.mark.slow
def test_a_command_draws_the_pictures_to_edit_that_it_needs_once(flash_ray, mine, tmp_path):
    row = re.search(r'`(\{"category": "object".*?\})`', PAGE, re.DOTALL)[1].replace("\n", " ")
    rows = [{**json.loads(row), "text": "BARN", "id": name} for name in ("one", "two")]
    rows[1]["picture_prompt"] = "a barn at night"
    (tmp_path / "barns.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = ("--benchmark", "barns.jsonl", "--recipe", mine.name)
    words = ("evaluate", "untrained", "--task", "edit", "--judge", "ocr", *own, "--cases")
    ended = flash_ray(*words, "1")
    assert ended.returncode == 0, ended.stderr
    assert "draw pictures to edit, barns: 1/1" in ended.stderr
    assert "untrained on barns, editing, by ocr" in ended.stdout
    for expected in ("1 pictures drawn; 2 edits", "0 pictures drawn; 2 edits"):
        drawn = flash_ray("benchmark", "draw", "barns.jsonl", "--recipe", mine.name)
        assert drawn.stdout == f"barns: {expected} have theirs\n", drawn.stderr
    again = flash_ray(*words, "2")
    assert again.returncode == 0 and "draw pictures" not in again.stderr, again.stderr


@pytest.mark.parametrize("option", [True, False])
def test_a_bad_row_is_named_before_anything_starts(flash_ray_forked, mine, tmp_path, option):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "category": "b"}\n{"prompt": "a"}\n')
    words = ["evaluate", "teacher", "--recipe", mine.name, "--task", "t2i"]
    words += (
        ["--benchmark", "bad.jsonl", "--judge", "ocr"]
        if option
        else ["--set", ("evaluation={benchmark: {t2i: bad.jsonl}, judge: ocr}")]
    )
    ended = flash_ray_forked(*words)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    field = "--benchmark: t2i" if option else "evaluation.benchmark.t2i"
    assert ended.stderr.startswith(f"flash-ray: {field}: bad.jsonl line 2: no category; every row")
