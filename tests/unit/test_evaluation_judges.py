"""The endpoints' judges: who is offered, what decides an evaluation's id, and what is left null."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.judges import base
from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.scores import judge_bench
from flash_ray.miniature.benchmark import cases
from flash_ray.recipe import load_recipe
from flash_ray.serving.evaluations import Asked, _name
from flash_ray.serving.http import ApiError
from flash_ray.serving.judging import opinions_json, validate_judge, vlm_of
from flash_ray.serving.registry import teacher_of
from flash_ray.serving.settings import Serving, load_serving
from flash_ray.workflows.serve import validate_judges

FILE = "base_url: http://127.0.0.1:1/v1\nmodel: seer\nkey_variable: JUDGE_KEY\nmax_requests: 9\n"


@pytest.fixture
def settings(tmp_path: Path) -> Serving:
    (tmp_path / "seer.yaml").write_text(FILE)
    return load_serving(None, [f"judges.mine={tmp_path / 'seer.yaml'}"])


def test_judges_are_read_from_their_files_with_the_settings(settings, tmp_path):
    assert settings.judges["mine"].max_requests == 9
    assert vlm_of("mine", settings) == {"model": "seer", "parameters": {}}
    assert vlm_of("exact", settings) is None and vlm_of("ocr", settings) is None
    (tmp_path / "bad.yaml").write_text("model: seer\nmax_requests: 9\n")
    for change, says in (
        ("judges.mine=nowhere.yaml", "judges:nowhere.yaml: No such file"),
        (f"judges.mine={tmp_path / 'bad.yaml'}", "base_url: missing"),
        (f"judges.ocr={tmp_path / 'seer.yaml'}", "is a judge of every server"),
        (f"judges.A B={tmp_path / 'seer.yaml'}", "allowed: VLMs that may judge"),
        ("judges.mine={model: seer}", "is not the name of a file"),
        ("judges=3", "allowed: VLMs that may judge"),
    ):
        with pytest.raises(UserError) as refused:
            load_serving(None, [change])
        assert says in str(refused.value)


def test_a_server_does_not_start_without_a_judges_key(settings, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError, match="JUDGE_KEY is not in the environment"):
        validate_judges(settings)
    monkeypatch.setenv("JUDGE_KEY", "x")
    validate_judges(settings)


def test_judges_that_are_not_there_are_refused(settings, monkeypatch):
    for name in ("exact", "ocr", "mine"):
        validate_judge(name, settings)
    for name in ("vlm:/etc/passwd", "http://127.0.0.1", ""):
        with pytest.raises(ApiError, match="allowed: exact, ocr, mine") as refused:
            validate_judge(name, settings)
        assert (refused.value.status, refused.value.param) == (400, "judge")
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    validate_judge("exact", settings)
    with pytest.raises(ApiError, match="ocr is not installed on this server; allowed: exact, mine"):
        validate_judge("ocr", settings)


def test_ids_of_exact_evaluations_stay_and_those_of_others_differ():
    model = replace(teacher_of(load_recipe("miniature")), digest="0123456789abcdef")
    exact = Asked(model, "t2i", 4, 7, 1)
    assert _name(exact) == "eval-f92cc7885450f9d4"  # as it was before there were other judges
    others = [
        replace(exact, judge="ocr"),
        replace(exact, judge="mine", vlm={"model": "seer", "parameters": {}}),
        replace(exact, judge="mine", vlm={"model": "seer 2", "parameters": {}}),
        replace(exact, judge="mine", vlm={"model": "seer", "parameters": {"temperature": 0}}),
        replace(exact, judge="other", vlm={"model": "seer", "parameters": {}}),
    ]
    assert len({_name(asked) for asked in [exact, *others]}) == 6
    assert _name(replace(exact, created=2)) == _name(exact)


def test_what_a_judge_does_not_say_is_null_in_the_exact_judges_shape():
    asked = cases("t2i", 2)
    opinions = [
        CaseScore(score=2, details={"reason": "r"}),
        CaseScore(score=4),
        CaseScore(score=None, failure="unparsed"),
        CaseScore(score=5),
        CaseScore(score=None),
        CaseScore(score=None),
    ]
    found = opinions_json(asked, opinions)
    exact = judge_bench(asked, np.zeros((6, 64, 64, 3), np.uint8), parallel=False).to_json()
    assert set(found) == {*exact, "counted"}
    assert set(found["categories"]["text"]) == {*exact["categories"]["text"], "counted"}
    assert set(found["verdicts"]["text-000"]) == {
        *exact["verdicts"]["text-000"],
        "failure",
        "details",
    }
    assert (found["score"], found["counted"], found["compliance"]) == (11 / 3, 3, None)
    rows = {name: (r["score"], r["counted"], r["cases"]) for name, r in found["categories"].items()}
    assert rows == {"landscape": (3, 2, 2), "portrait": (5, 1, 2), "text": (None, 0, 2)}
    assert found["verdicts"]["portrait-000"] == {
        "score": None,
        "failure": "unparsed",
        "details": {},
        "compliance": None,
        "quality": None,
        "cap": None,
        "attributes": None,
    }


def test_a_judge_without_any_opinion_gives_no_score():
    found = opinions_json(cases("t2i", 1), [CaseScore(score=None)] * 3)
    assert (found["score"], found["interval"], found["counted"]) == (None, None, 0)
