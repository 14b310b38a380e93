"""A VLM that compares answers with a reference's: both orders, ties, what is asked, refusals."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import summarize
from flash_ray.evaluation.judges.choose import open_judge, read_judges, references
from flash_ray.evaluation.judges.endpoint import PairSettings
from flash_ray.evaluation.judges.vlm_pair import VlmPairJudge
from tests.helpers.chat_server import Answer, Asked, ChatServer, trusted_server
from tests.helpers.storage import MemoryStore

CASES = [
    Case("cat", "t2i", "animals", "a cat", (32, 32), 0),
    Case("soup", "t2i", "food", "a soup", (32, 32), 0),
]
OURS = np.full((2, 32, 32, 3), 200, np.uint8)
THEIRS = {case.id: np.full((32, 32, 3), 50, np.uint8) for case in CASES}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with trusted_server("JUDGE_KEY") as running:
        yield running


@pytest.fixture
def store():
    return MemoryStore("bucket", "", None)


def judge_of(server: ChatServer, store: MemoryStore, **changes: object) -> VlmPairJudge:
    fields = {"base_url": server.base_url, "model": "seer", "key_variable": "JUDGE_KEY"}
    fields |= {"max_requests": 100, "reference": "teacher", **changes}
    return VlmPairJudge(PairSettings.model_validate(fields), store, THEIRS)


def says(better: str) -> Answer:
    return Answer(json.dumps({"better": better, "reason": "it is brighter"}))


def brighter(asked: Asked, number: int) -> Answer:
    """Prefers the brighter picture, wherever it stands."""
    first, second = (picture.mean() for picture in asked.pictures)
    return says("A" if first > second else "B")


def test_the_better_one_wins_whatever_stands_first(server, store):
    server.script = brighter
    judge = judge_of(server, store)
    result = summarize(judge, CASES, judge.judge(CASES, OURS))
    assert (result.judge, result.score) == ("vlm-pair:seer:teacher", 1.0)
    assert result.measures == {"win": 1.0, "tie": 0.0, "loss": 0.0}
    assert result.measure_intervals["win"] == (1.0, 1.0)
    assert len(server.asked) == 4
    lost = judge.judge(CASES, np.zeros_like(OURS))
    assert [s.score for s in lost] == [0.0, 0.0]
    assert lost[0].details["tokens"] == 200


def test_one_that_prefers_the_first_says_nothing(server, store):
    server.script = lambda asked, number: says("A")
    scores = judge_of(server, store).judge(CASES, OURS)
    assert [s.score for s in scores] == [0.5, 0.5]
    assert scores[0].measures == {"win": 0.0, "tie": 1.0, "loss": 0.0}
    assert "A is ours, better is A: it is brighter" in scores[0].details["reason"]


def test_half_a_preference_is_a_tie(server, store):
    server.script = lambda asked, number: says("tie" if number % 2 else "A")
    scores = judge_of(server, store, concurrency=1).judge(CASES, OURS)
    assert [s.score for s in scores] == [0.5, 0.5]


def test_equal_pictures_tie_and_nobody_is_asked(server, store):
    scores = judge_of(server, store).judge(CASES, list(THEIRS.values()))
    assert [s.score for s in scores] == [0.5, 0.5] and server.asked == []


def test_it_is_told_what_to_compare(server, store):
    server.script = brighter
    own = {"t2i": {"food": "Look at the steam."}}
    judge_of(server, store, rubrics=own).judge(CASES, OURS)
    told = {asked.text.split(": ")[1].split("\n")[0].strip(): asked for asked in server.asked}
    soup = next(asked for text, asked in told.items() if "soup" in text)
    cat = next(asked for text, asked in told.items() if "cat" in text)
    assert "Look at the steam." in soup.rubric and "Look at the steam." not in cat.rubric
    assert '{"better": "A", "reason": "..."}' in cat.rubric
    assert "You compare two pictures" in cat.rubric


def test_a_rerun_asks_nothing(server, store):
    server.script = brighter
    first = judge_of(server, store).judge(CASES, OURS)
    assert judge_of(server, store, max_requests=1).judge(CASES, OURS) == first
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("answer", "failure"),
    [(Answer('{"better": "C"}'), "unparsed"), (Answer(refusal="no"), "refused")],
    ids=["unparsed", "refused"],
)
def test_what_cannot_be_judged_has_no_score(server, store, answer, failure):
    server.script = lambda asked, number: answer
    (score,) = judge_of(server, store).judge(CASES[:1], OURS[:1])
    assert (score.score, score.failure) == (None, failure)
    assert list(store.list("judgments/")) == []


def test_a_case_without_the_references_answer_has_no_score(server, store):
    other = Case("tea", "t2i", "food", "a tea", (32, 32), 0)
    (score,) = judge_of(server, store).judge([other], OURS[:1])
    assert (score.score, score.failure) == (None, None)


def test_its_file_names_the_reference(tmp_path: Path, store):
    file = tmp_path / "pair.yaml"
    good = "base_url: https://api.example.org/v1\nmodel: seer\nmax_requests: 9\n"
    file.write_text(f"{good}reference: other\n")
    choices = read_judges([f"vlm-pair:{file}", "exact"])
    assert references(choices) == ["other"]
    judge = open_judge(choices[0], store, {"other": THEIRS})
    assert judge.name == "vlm-pair:seer:other"
    file.write_text(good)
    with pytest.raises(UserError, match="--judge vlm-pair:.*: reference: missing; allowed: the"):
        read_judges([f"vlm-pair:{file}"])
    file.write_text(f"{good}reference: other\n")
    with pytest.raises(UserError, match="reference: unknown key 'reference'"):
        read_judges([f"vlm:{file}"])
