"""Somebody else's package adds a benchmark and a judge, which the commands then know by name."""

import json


def test_a_model_is_scored_on_its_benchmark_by_its_judge(flash_ray, installed, base, tmp_path):
    words = ("evaluate", "teacher", "--recipe", "miniature", "--set", f"base={base}")
    signs = ("--benchmark", "signs", "--task", "t2i", "--cases", "2", "--judge", "sharpness")
    ended = flash_ray(*words, *signs, "--out", "signs.json", PYTHONPATH=str(installed))
    assert ended.returncode == 0, ended.stderr
    assert "wood" in ended.stdout and "metal" in ended.stdout
    result = json.loads((tmp_path / "signs.json").read_text())
    sharpness = result["judges"]["sharpness"]
    assert set(sharpness["cases"]) == {"wood-open", "wood-exit", "metal-open", "metal-exit"}
    assert all(0 < case["score"] < 1 for case in sharpness["cases"].values())
    assert sharpness["categories"]["wood"]["details"]["sharpest"].startswith("wood-")
    assert len({case["score"] for case in sharpness["cases"].values()}) > 1

    # The miniature's own judge reads no pictures of other worlds.
    ended = flash_ray(*words, *signs[:-1], "exact", PYTHONPATH=str(installed))
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1 and "exact" in ended.stderr and "signs" in ended.stderr


def test_a_recipe_may_name_them_where_they_are_installed(flash_ray, installed):
    words = ("recipe", "check", "miniature", "--set", "evaluation.benchmark=signs")
    words = (*words, "--set", "evaluation.judge=sharpness")
    ended = flash_ray(*words, PYTHONPATH=str(installed))
    assert ended.returncode == 0, ended.stderr
    ended = flash_ray(*words)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "evaluation.benchmark: unknown benchmark 'signs'" in ended.stderr
