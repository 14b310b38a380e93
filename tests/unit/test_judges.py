"""The judges' interface, the exact judge behind it, and OCR of the miniature's own drawings."""

import socket
import sys

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.judges import base
from flash_ray.evaluation.judges.base import CaseScore, judge_result
from flash_ray.evaluation.judges.exact import exact_opinions
from flash_ray.evaluation.judges.load import opened_judges, read_judges
from flash_ray.evaluation.judges.ocr import OcrJudge, error_rate, wanted_text
from flash_ray.evaluation.scores import judge_bench
from flash_ray.evaluation.statistics import interval
from flash_ray.miniature.benchmark import Case, cases
from flash_ray.miniature.draw import draw


def drawings(asked: list[Case]) -> np.ndarray:
    """What each case asks for, as the miniature's world draws it."""
    scenes = [case.wanted if case.bench == "t2i" else case.wanted.target for case in asked]
    pictures_B3HW = np.stack([draw([scene])[0] for scene in scenes])
    return np.round(pictures_B3HW.transpose(0, 2, 3, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def ocr() -> OcrJudge:
    return OcrJudge()


def texts(bench: str, count: int) -> list[Case]:
    return [case for case in cases(bench, count) if case.category == "text"]


def test_a_judgement_is_the_mean_of_what_there_is():
    asked = cases("t2i", 1)
    given = [CaseScore(score=2), CaseScore(score=None, failure="unparsed"), CaseScore(score=5)]
    found = judge_result(asked, given)
    assert (found.score, found.interval) == (3.5, interval([2, 5]))
    assert found.failures == ["unparsed"] and found.scores == [2, 5]
    assert list(found.opinions) == ["landscape-000", "portrait-000", "text-000"]
    assert type(found).model_validate_json(found.model_dump_json(), strict=True) == found


def test_a_judge_without_any_opinion_has_no_score():
    asked = cases("t2i", 1)
    found = judge_result(asked, [CaseScore(score=None)] * 3)
    assert (found.score, found.interval, found.failures) == (None, None, [])


def test_every_case_needs_its_opinion():
    with pytest.raises(ValueError):
        judge_result(cases("t2i", 1), [CaseScore(score=2)])


def test_exact_opinions_are_the_verdicts():
    asked = cases("t2i", 1)
    score = judge_bench(asked, drawings(asked), parallel=False)
    opinions = exact_opinions(asked[::-1], score)
    assert [o.score for o in opinions] == [score.verdicts[c.id].score for c in asked[::-1]]
    text = score.verdicts["text-000"]
    details = {"compliance": text.compliance, "quality": text.quality, "cap": None}
    assert opinions[0].details == details and text.compliance == 1.0


def test_wanted_text_is_the_word_of_text_cases_only():
    for case in cases("t2i", 2):
        assert wanted_text(case) == (case.wanted.word if case.category == "text" else None)
    for case in cases("edit", 2):
        word = case.wanted.target.word if case.category == "text" else None
        assert wanted_text(case) == word


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a poster that says "Open late" above a door', "Open late"),
        ("a sign “EXIT” and a sign «Sortie»", "EXIT Sortie"),
        ("a poster without words", None),
        ("it's the generator's own", None),
    ],
)
def test_elsewhere_wanted_text_is_what_the_prompt_quotes(prompt, text):
    assert wanted_text(Case("t2i", "text", 0, prompt, None, 0)) == text


@pytest.mark.parametrize(
    ("read", "rate"),
    [("CAT", 0), ("c a-t!", 0), ("CAR", 1 / 3), ("", 1), ("CATS", 1 / 3), ("HOUSES", 2)],
)
def test_error_rate_counts_letters_and_digits(read, rate):
    assert error_rate(read, "Cat") == pytest.approx(rate)


def test_ocr_reads_the_miniature(ocr):
    asked = [*texts("t2i", 6), *texts("edit", 6)]
    opinions = ocr.judge(asked, drawings(asked))
    assert [o.details["wanted"] for o in opinions] == [wanted_text(case) for case in asked]
    assert np.mean([o.details["cer"] for o in opinions]) < 0.1
    assert all(o.score == 1 + 4 * (1 - min(1, o.details["cer"])) for o in opinions)


def test_ocr_sees_wrong_words_and_none(ocr):
    asked = texts("t2i", 4)
    wrong = ocr.judge(asked, np.roll(drawings(asked), 1, axis=0))
    blank = ocr.judge(asked, np.full((4, 64, 64, 3), 200, np.uint8))
    assert all(o.score < 3 for o in wrong)
    assert [(o.score, o.details["read"], o.details["cer"]) for o in blank] == [(1.0, "", 1.0)] * 4


def test_ocr_has_no_opinion_where_no_text_is_wanted(ocr):
    asked = [case for case in cases("edit", 1) if case.category != "text"]
    opinions = ocr.judge(asked, drawings(asked))
    assert opinions == [CaseScore(score=None)] * 5


def test_ocr_reads_larger_pictures_that_are_not_square(ocr):
    (case,) = texts("t2i", 1)
    (picture,) = drawings([case])
    large = picture.repeat(8, axis=0).repeat(8, axis=1)
    wide = np.concatenate([large, np.full((512, 300, 3), 250, np.uint8)], axis=1)
    assert error_rate(ocr.read(wide), case.wanted.word) == 0


def test_ocr_needs_no_network(monkeypatch):
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    asked = texts("t2i", 1)
    (opinion,) = OcrJudge().judge(asked, drawings(asked))
    assert opinion.score == 5.0


def test_ocr_imports_no_window_libraries(ocr):
    import cv2

    assert sys.modules["rapidocr"] and not cv2.currentUIFramework()


@pytest.mark.parametrize(("word", "extra"), [("ocr", "ocr"), ("vlm:judge.yaml", "vlm")])
def test_a_missing_extra_is_named(monkeypatch, word, extra):
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"--judge: .* is not installed; .*flash-ray\[{extra}\]"):
        read_judges([word])


def test_judges_without_a_vlm_open_no_store(tmp_path):
    with opened_judges(read_judges(["ocr", "exact"]), str(tmp_path / "store")) as judges:
        assert [judge.name for judge in judges] == ["exact", "ocr"]
    assert not (tmp_path / "store").exists()
