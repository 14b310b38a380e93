"""`flash-ray demo`, small: what it leaves, and that its student works without flash_ray."""

import html
import json
import subprocess
import sys

import pytest
from PIL import Image

from flash_ray.recipe import load_recipe

PLAIN_DIFFUSERS = """
import sys
from diffusers import QwenImage21Transformer2DModel
QwenImage21Transformer2DModel.from_pretrained(sys.argv[1])
assert "flash_ray" not in sys.modules
"""


@pytest.mark.slow
def test_demo_leaves_its_results_and_can_be_repeated(flash_ray, tmp_path, small):
    out = tmp_path / "demo"
    for options in ([], ["--force"]):  # the second replaces the first
        ended = flash_ray("demo", "--out", "demo", "--cases", "1", *small, *options)
        assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stderr and "distill: 4/4" in ended.stderr
    assert "untrained" in ended.stdout and "text to image" in ended.stdout

    result = json.loads((out / "result.json").read_text())
    assert list(result["models"]) == ["teacher", "untrained", "student"]
    assert [row["t2i"]["nfe"] for row in result["models"].values()] == [80, 4, 4]
    for tasks in result["models"].values():
        for task, categories in (("t2i", 3), ("edit", 6)):
            assert 1 <= tasks[task]["score"] <= 5
            rows = tasks[task]["categories"]
            assert len(rows) == len(tasks[task]["cases"]) == categories
            assert all("diversity" in row["details"] for row in rows.values())
            assert all(1 <= row["score"] <= 5 for row in rows.values())
    assert {*result["differences"]} == {"teacher", "untrained"}
    assert (result["benchmark"], result["judge"]) == ("miniature", "exact")
    seconds = result["seconds"]
    assert seconds["total"] == pytest.approx(seconds["train"] + seconds["evaluate"])
    assert result["published"] == "s3://flash-ray/students/miniature"
    assert result["recipe_digest"] == load_recipe("miniature", small[1::2]).digest

    manifest = json.loads((out / "student" / "model.json").read_text())
    assert manifest["recipe_digest"] == result["recipe_digest"]
    assert set(manifest["scores"]["tasks"]) == {"t2i", "edit"}
    assert manifest["scores"]["benchmark"] == "miniature"
    assert manifest["scores"]["cases_per_category"] == 1
    report = html.unescape((out / "report.html").read_text())
    assert "<h2>The run</h2>" in report
    assert result["overlap"] and all(line in report for line in result["overlap"])
    assert Image.open(out / "grid.png").width > 7 * 128
    subprocess.run([sys.executable, "-c", PLAIN_DIFFUSERS, str(out / "student")], check=True)

    ended = flash_ray("models", "--store", "demo/store")
    assert ended.returncode == 0 and "miniature" in ended.stdout, ended.stderr


@pytest.mark.slow
def test_without_a_benchmark_nothing_is_scored_and_nothing_claimed(flash_ray, tmp_path, small):
    words = ("distill", "miniature", "--store", "store", *small)
    ended = flash_ray(*words, "--set", "evaluation.benchmark=null")
    assert ended.returncode == 0, ended.stderr
    assert "distill: 4/4" in ended.stderr and "score " not in ended.stderr.replace("score loss", "")
    ended = flash_ray("models", "--store", "store", COLUMNS="200")
    assert ended.returncode == 0, ended.stderr
    assert "miniature" in ended.stdout and "text to image" not in ended.stdout
    ended = flash_ray("evaluate", "miniature", "--store", "store", "--task", "t2i")
    assert ended.returncode == 2 and "--benchmark: missing" in ended.stderr


@pytest.mark.slow
def test_without_a_judge_the_cases_are_drawn_and_no_score_is_claimed(flash_ray, tmp_path, small):
    settings = ("evaluation.judge=null", "evaluation.every=2", "evaluation.published_cases=1")
    options = [word for setting in settings for word in ("--set", setting)]
    ended = flash_ray("distill", "miniature", "--store", "store", *small, *options)
    assert ended.returncode == 0, ended.stderr
    assert "score " not in ended.stderr.replace("score loss", "")
    ended = flash_ray("export", "miniature", "exported", "--store", "store")
    assert ended.returncode == 0, ended.stderr
    card = (tmp_path / "exported" / "README.md").read_text()
    assert (tmp_path / "exported" / "samples.png").is_file() and "samples.png" in card
    assert "## Scores" not in card
