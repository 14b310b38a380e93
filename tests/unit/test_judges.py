"""The judges' interface, the exact judge behind it, and OCR of the miniature's own drawings."""

import socket
import sys
from dataclasses import replace

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.compare import score_answers
from flash_ray.evaluation.judges import choose
from flash_ray.evaluation.judges.base import CaseScore, summarize
from flash_ray.evaluation.judges.choose import load_judge, load_scoring, read_judges, validate_judge
from flash_ray.evaluation.judges.ocr import OcrJudge, error_rate
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.draw import draw
from flash_ray.miniature.judge import judge as judge_picture
from flash_ray.miniature.plugin import ExactJudge
from flash_ray.recipe import load_recipe
from flash_ray.recipe.schema import Task

ELSEWHERE = Case("sign-0", "t2i", "signs", "a sign", (64, 64), 0)  # of another benchmark


def cases(task: Task, count: int) -> list[Case]:
    return MiniatureBenchmark().cases(task, count)


def drawings(asked: list[Case]) -> np.ndarray:
    """What each case asks for, as the miniature's world draws it."""
    scenes = [case.target if case.task == "t2i" else case.target.target for case in asked]
    pictures_B3HW = np.stack([draw([scene])[0] for scene in scenes])
    return np.round(pictures_B3HW.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def ocr() -> OcrJudge:
    return OcrJudge()


def texts(task: Task, count: int) -> list[Case]:
    return [case for case in cases(task, count) if case.category == "text"]


def test_a_result_is_the_mean_of_what_there_is():
    asked = cases("t2i", 1)
    given = [
        CaseScore(score=2, measures={"sharp": 0.5}),
        CaseScore(score=None, failure="unparsed"),
        CaseScore(score=5, measures={"sharp": 1.0, "clean": 0.25}),
    ]
    result = summarize(ExactJudge(), asked, given)
    assert (result.judge, result.score, result.interval) == ("exact", 3.5, interval([2, 5]))
    assert result.measures == {"sharp": 0.75, "clean": 0.25}
    assert result.failures == ["unparsed"] and result.scores == [2, 5]
    assert list(result.cases) == ["landscape-000", "portrait-000", "text-000"]
    assert result.scored == {"landscape-000", "text-000"}
    rows = {name: (row.cases, row.counted, row.score) for name, row in result.categories.items()}
    assert rows == {"landscape": (1, 1, 2), "portrait": (1, 0, None), "text": (1, 1, 5)}
    assert type(result).model_validate_json(result.model_dump_json(), strict=True) == result


def test_a_judge_without_any_score_has_no_mean():
    result = summarize(ExactJudge(), cases("t2i", 1), [CaseScore(score=None)] * 3)
    assert (result.score, result.interval, result.failures) == (None, None, [])
    assert (result.measures, result.categories["text"].score) == ({}, None)


def test_every_case_needs_its_score():
    with pytest.raises(ValueError):
        summarize(ExactJudge(), cases("t2i", 1), [CaseScore(score=2)])


def test_the_exact_judge_says_what_the_world_says():
    asked = cases("t2i", 1)
    images = drawings(asked)
    result = score_answers(ExactJudge(), asked, images)
    for case, image in zip(asked, images, strict=True):
        exact = judge_picture(image.astype(np.float32).transpose(2, 0, 1) / 255, case.target)
        score = result.cases[case.id]
        assert score.score == exact.score
        assert score.measures == {"compliance": exact.compliance, "quality": exact.quality}
        assert score.details == {"cap": exact.cap, "attributes": exact.attributes}
    assert result.cases["text-000"].measures["compliance"] == 1.0
    assert (
        "tint"
        in score_answers(ExactJudge(), cases("t2i", 2), drawings(cases("t2i", 2)))
        .categories["portrait"]
        .details["diversity"]
    )


def test_the_exact_judge_has_nothing_to_say_of_other_worlds():
    assert not ExactJudge().can_judge(ELSEWHERE)
    blank = np.zeros((64, 64, 3), np.uint8)
    assert ExactJudge().judge([ELSEWHERE], [blank]) == [CaseScore(score=None)]
    assert ExactJudge().describe([ELSEWHERE], [CaseScore(score=None)]) == {}


def test_the_miniature_asks_for_text_in_text_cases_only():
    for case in cases("t2i", 2):
        assert case.text == (case.target.word if case.category == "text" else None)
    for case in cases("edit", 2):
        assert case.text == (case.target.target.word if case.category == "text" else None)


@pytest.mark.parametrize(
    ("read", "rate"),
    [("CAT", 0), ("c a-t!", 0), ("CAR", 1 / 3), ("", 1), ("CATS", 1 / 3), ("HOUSES", 2)],
)
def test_error_rate_counts_letters_and_digits(read, rate):
    assert error_rate(read, "Cat") == pytest.approx(rate)


def test_ocr_reads_the_miniature(ocr):
    asked = [*texts("t2i", 6), *texts("edit", 6)]
    scores = ocr.judge(asked, drawings(asked))
    assert [s.details["wanted"] for s in scores] == [case.text for case in asked]
    assert np.mean([s.details["cer"] for s in scores]) < 0.1
    assert all(s.score == 1 - min(1, s.details["cer"]) for s in scores)


def test_ocr_sees_wrong_words_and_none(ocr):
    asked = texts("t2i", 4)
    wrong = ocr.judge(asked, np.roll(drawings(asked), 1, axis=0))
    blank = ocr.judge(asked, np.full((4, 64, 64, 3), 200, np.uint8))
    assert all(s.score < 0.5 for s in wrong)
    assert [(s.score, s.details["read"], s.details["cer"]) for s in blank] == [(0.0, "", 1.0)] * 4


def test_ocr_has_no_score_where_no_text_is_wanted(ocr):
    asked = [case for case in cases("edit", 1) if case.category != "text"]
    assert ocr.judge(asked, drawings(asked)) == [CaseScore(score=None)] * 5
    assert not any(ocr.can_judge(case) for case in asked)
    signs = replace(ELSEWHERE, text="...")  # no letter in it
    assert not ocr.can_judge(signs) and ocr.can_judge(replace(ELSEWHERE, text="No. 7"))
    blank = np.zeros((64, 64, 3), np.uint8)
    assert ocr.judge([signs], [blank]) == [CaseScore(score=None)]


def test_ocr_reads_larger_pictures_that_are_not_square(ocr):
    (case,) = texts("t2i", 1)
    (picture,) = drawings([case])
    large = picture.repeat(8, axis=0).repeat(8, axis=1)
    wide = np.concatenate([large, np.full((512, 300, 3), 250, np.uint8)], axis=1)
    assert error_rate(ocr.read(wide), case.text) == 0


def test_ocr_needs_no_network(monkeypatch):
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    asked = texts("t2i", 1)
    (score,) = OcrJudge().judge(asked, drawings(asked))
    assert score.score == 1.0


def test_ocr_imports_no_window_libraries(ocr):
    import cv2

    ocr.judge(texts("t2i", 1), drawings(texts("t2i", 1)))
    assert sys.modules["rapidocr"] and not cv2.currentUIFramework()


@pytest.mark.parametrize(("word", "extra"), [("ocr", "ocr"), ("vlm:judge.yaml", "vlm")])
def test_a_missing_extra_is_named(monkeypatch, word, extra):
    monkeypatch.setattr(choose, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"--judge: .* is not installed; .*flash-ray\[{extra}\]"):
        read_judges([word])


def test_judges_are_found_by_the_name_that_a_package_registers():
    assert isinstance(load_judge("exact"), ExactJudge)
    with pytest.raises(UserError, match="evaluation.judge: unknown judge 'exakt'; did you mean"):
        load_judge("exakt", "evaluation.judge")
    with pytest.raises(UserError, match="'crowd' is no judge; allowed: clip:MODEL, exact, ocr"):
        read_judges(["crowd"])
    with pytest.raises(UserError, match="exact is given twice"):
        read_judges(["exact", "exact"])


def test_a_recipe_says_what_is_scored_by_whom():
    scoring = load_scoring(load_recipe("miniature"))
    assert (scoring.benchmark.name, scoring.judge.name) == ("miniature", "exact")
    assert load_scoring(load_recipe("miniature", ["evaluation.benchmark=null"])) is None


def test_a_judge_that_can_judge_no_case_is_refused():
    validate_judge(ExactJudge(), [ELSEWHERE, *cases("t2i", 1)], "mixed", "--judge")
    with pytest.raises(UserError, match="--judge: exact can judge none of the 1 cases of .*signs"):
        validate_judge(ExactJudge(), [ELSEWHERE], "signs", "--judge")
