"""What is published of a student's scores, and how it is listed."""

import numpy as np
import pytest

from flash_ray.cli.tables import student_table
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import Answers, Comparison
from flash_ray.evaluation.judges.base import CaseScore, summarize
from flash_ray.evaluation.published import published_scores
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import load_recipe
from flash_ray.storage.scores import PublishedScores
from flash_ray.storage.students import list_students, publish_student
from tests.helpers.plugin_package.signs import SharpnessJudge, SignsBenchmark
from tests.helpers.storage import MemoryStore

SIGNS = SignsBenchmark()
NFE = {"teacher": 80, "untrained": 4, "student": 4}


def comparison(scores: dict[str, list[float]]) -> Comparison:
    cases: list[Case] = SIGNS.cases("t2i", 2)
    judge = SharpnessJudge()
    answers = {
        name: Answers(
            SamplerConfig((1.0,) * NFE[name]),
            [np.zeros((8, 8, 3), np.uint8)] * len(cases),
            summarize(judge, cases, [CaseScore(score=value) for value in values]),
        )
        for name, values in scores.items()
    }
    return Comparison("t2i", cases, answers)


def test_the_base_stands_beside_the_student():
    compared = comparison(
        {
            "student": [0.3, 0.4, 0.3, 0.4],
            "teacher": [0.4, 0.5, 0.4, 0.5],
            "untrained": [0.0, 0.1, 0.0, 0.1],
        }
    )
    scores = published_scores({"t2i": compared}, SIGNS, 2)
    assert (scores.judge, scores.scale) == ("sharpness", "mean step between neighbors, 0 to 1")
    assert scores.tasks["t2i"] == pytest.approx(0.35)
    assert scores.baselines["teacher"].tasks["t2i"] == pytest.approx(0.45)
    assert (scores.baselines["teacher"].nfe, scores.baselines["untrained"].nfe) == (80, 4)
    closed = scores.gap_closed["t2i"]
    assert closed.share == pytest.approx(0.75)
    assert closed.interval[0] <= closed.share <= closed.interval[1]


def test_a_student_alone_has_no_gap_to_close():
    scores = published_scores({"t2i": comparison({"student": [0.3, 0.4, 0.3, 0.4]})}, SIGNS, 2)
    assert (scores.baselines, scores.gap_closed) == ({}, {})


def test_without_any_score_nothing_is_published():
    assert published_scores({"t2i": comparison({"student": [None] * 4})}, SIGNS, 2) is None


def test_a_list_of_students_shows_the_ends_of_the_gap(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store, recipe = MemoryStore("bucket", "", None), load_recipe("miniature")
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    compared = comparison(
        {"student": [0.3] * 4, "teacher": [0.4] * 4, "untrained": [0.1, 0.1, 0.1, 0.2]}
    )
    scores = published_scores({"t2i": compared}, SIGNS, 2)
    publish_student(store, "mine", tmp_path, recipe, scores)
    alone = PublishedScores(
        benchmark="signs", digest="0", judge="exact", cases_per_category=1, tasks={"t2i": 3.5}
    )
    publish_student(store, "other", tmp_path, recipe, alone)
    student_table(list_students(store)[0])
    shown = capsys.readouterr().out
    assert "0.300" in shown and "(0.125 to 0.400, 64%)" in shown and "3.50" in shown
    assert "signs, 2 cases a category, sharpness (mean step" in shown.replace("\n", "")
    assert "the untrained base to the teacher" in shown
