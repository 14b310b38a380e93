"""From models to a ranking: `flash-ray evaluate` with several judges, then `flash-ray rank`."""

import json

import pytest


@pytest.mark.slow
def test_results_of_two_judges_are_ranked(flash_ray, tmp_path, base):
    words = ("--task", "t2i", "--cases", "2", "--judge", "exact", "--judge", "ocr")
    recipe = ("--recipe", "miniature", "--set", f"base={base}")
    for model in ("teacher", "untrained"):
        file = f"{model}.json"
        ended = flash_ray("evaluate", model, *words, *recipe, "--out", file)
        assert ended.returncode == 0, ended.stderr
        result = json.loads((tmp_path / file).read_text())
        exact, ocr = (result["judges"][name] for name in ("exact", "ocr"))
        assert (result["model"], result["benchmark"], result["task"]) == (model, "miniature", "t2i")
        assert result["nfe"] == (80 if model == "teacher" else 4)
        assert 1 <= exact["score"] <= 5 and set(exact["measures"]) == {"compliance", "quality"}
        assert exact["cases"].keys() == ocr["cases"].keys() and len(exact["cases"]) == 6
        read = {name for name, case in ocr["cases"].items() if case["score"] is not None}
        assert read == {"text-000", "text-001"}
    ended = flash_ray("rank", "teacher.json", "untrained.json", COLUMNS="200")
    assert ended.returncode == 0, ended.stderr
    assert "text to image, 6 cases" in ended.stdout and "untrained.json" in ended.stdout
    assert "exact (1 to 5): 6 of 6 cases count" in ended.stdout
    assert "ocr (characters right, 0 to 1): 2 of 6 cases count" in ended.stdout


@pytest.mark.slow
def test_the_shipped_benchmark_is_read_by_ocr(flash_ray, tmp_path, base):
    words = ("--task", "t2i", "--benchmark", "starter", "--cases", "2", "--judge", "ocr")
    recipe = ("--recipe", "miniature", "--set", f"base={base}")
    ended = flash_ray("evaluate", "untrained", *words, *recipe, "--out", "starter.json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "starter.json").read_text())
    assert result["benchmark"] == "starter"
    cases = result["judges"]["ocr"]["cases"]
    read = {name for name, case in cases.items() if case["score"] is not None}
    assert len(cases) == 6 and read == {name for name in cases if name.startswith("text-")}
