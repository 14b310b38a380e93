"""From models to a ranking: `flash-ray evaluate` with several judges, then `flash-ray rank`."""

import json

import pytest


@pytest.mark.slow
def test_results_of_two_judges_are_ranked(flash_ray, tmp_path, base):
    words = ("--bench", "t2i", "--cases", "2", "--judge", "ocr", "--judge", "exact")
    for model in ("teacher", "teacher-at-4"):
        file = f"{model}.json"
        ended = flash_ray("evaluate", model, *words, "--set", f"base={base}", "--out", file)
        assert ended.returncode == 0, ended.stderr
        result = json.loads((tmp_path / file).read_text())
        exact, ocr = (result["judges"][name] for name in ("exact", "ocr"))
        assert exact["score"] == pytest.approx(result["t2i"])
        assert (
            exact["opinions"].keys() == ocr["opinions"].keys() == result["verdicts"]["t2i"].keys()
        )
        read = {case for case, opinion in ocr["opinions"].items() if opinion["score"] is not None}
        assert read == {"text-000", "text-001"}
    ended = flash_ray("rank", "teacher.json", "teacher-at-4.json", COLUMNS="200")
    assert ended.returncode == 0, ended.stderr
    assert "t2i, 6 cases" in ended.stdout and "teacher-at-4.json" in ended.stdout
    assert "exact: 6 of 6 cases count" in ended.stdout
    assert "ocr: 2 of 6 cases count" in ended.stdout
