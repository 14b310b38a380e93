"""The VLM judge against a server that speaks the protocol, with a real store for its answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.answers import parse
from flash_ray.evaluation.judges.choose import open_judge, read_judges
from flash_ray.evaluation.judges.endpoint import VlmSettings, read_settings
from flash_ray.evaluation.judges.vlm import ScoreAnswer, VlmJudge, rubric
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.scenes import CATEGORIES
from flash_ray.recipe.schema import Task
from flash_ray.storage.embedded import embedded_store
from flash_ray.storage.s3 import Store
from tests.helpers.chat_server import KEY, Answer, Asked, ChatServer, good, trusted_server
from tests.helpers.storage import MemoryStore


def cases(task: Task, count: int) -> list[Case]:
    return MiniatureBenchmark().cases(task, count)


CASES = cases("t2i", 1)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
AT_ONCE = {"retry-after-ms": "1"}  # the client waits so long before it asks again


@pytest.fixture(scope="module")
def server_and_bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with embedded_store(Path(tmp_path_factory.mktemp("store"))) as embedded:
        yield embedded


@pytest.fixture
def store(server_and_bucket: Store, request: pytest.FixtureRequest) -> Store:
    """A place of the test's own: nothing is kept there yet."""
    prefix = request.node.name.replace("[", "-").replace("]", "")
    return Store(server_and_bucket.bucket, prefix, server_and_bucket.endpoint)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with trusted_server("JUDGE_KEY") as running:
        yield running


def settings(server: ChatServer, **changes: object) -> VlmSettings:
    fields = {"base_url": server.base_url, "model": "seer", "key_variable": "JUDGE_KEY"}
    return VlmSettings.model_validate({**fields, "max_requests": 100, **changes})


def test_a_picture_is_asked_about_with_its_prompt_and_rubric(server, store):
    server.script = lambda asked, number: good(2)
    judge = VlmJudge(settings(server, parameters={"temperature": 0}), store)
    scores = judge.judge(CASES, PICTURES)
    assert judge.name == "vlm:seer"
    by_prompt = {asked.text: asked for asked in server.asked}
    assert len(by_prompt) == len(CASES)
    for case, picture in zip(CASES, PICTURES, strict=True):
        (asked,) = [a for text, a in by_prompt.items() if case.prompt in text]
        assert asked.rubric == rubric("t2i", case.category, {})
        assert asked.model == "seer" and asked.fields == {"temperature": 0}
        (shown,) = asked.pictures
        assert (shown == picture).all()
    assert [score.failure for score in scores] == [None] * 3
    assert scores[0].details == {"replies": 1, "tokens": 100, "reason": "as asked"}


def test_scores_belong_to_their_cases(server, store):
    category_of = {rubric("t2i", case.category, {}): case.category for case in CASES}
    given = {"landscape": 1, "portrait": 3, "text": 5}
    server.script = lambda asked, number: good(given[category_of[asked.rubric]])
    scores = VlmJudge(settings(server, concurrency=3), store).judge(CASES, PICTURES)
    assert [s.score for s in scores] == [given[case.category] for case in CASES]


def test_of_an_edit_the_input_is_shown_too(server, store):
    (case,) = cases("edit", 1)[:1]
    VlmJudge(settings(server), store).judge([case], PICTURES[:1])
    (asked,) = server.asked
    before, after = asked.pictures
    assert (before == np.asarray(case.references[0])).all() and before.shape == (64, 64, 3)
    assert (after == PICTURES[0]).all()
    assert f"Instruction: {case.prompt}" in asked.text


def test_every_category_has_a_rubric_that_asks_for_json():
    rubrics = [rubric(task, category, {}) for task, own in CATEGORIES.items() for category in own]
    assert len(set(rubrics)) == len(rubrics) == 9
    assert rubric("t2i", "signs", {}) not in rubrics  # another benchmark's category
    assert all('{"score": n, "reason": "..."}' in text for text in rubrics)


def test_a_rerun_asks_nothing(server, store):
    server.script = lambda asked, number: good(3) if number else Answer("no idea")
    judge = VlmJudge(settings(server, concurrency=1), store)
    first = judge.judge(CASES, PICTURES)
    sent = len(server.asked)
    assert judge.judge(CASES, PICTURES) == first
    assert VlmJudge(settings(server, max_requests=1), store).judge(CASES, PICTURES) == first
    assert len(server.asked) == sent == 4


@pytest.mark.parametrize("bad", [Answer("no idea"), Answer(refusal="no")], ids=["words", "refusal"])
def test_a_failure_is_not_kept(server, store, bad):
    server.script = lambda asked, number: bad
    judge = VlmJudge(settings(server), store)
    (failed,) = judge.judge(CASES[:1], PICTURES[:1])
    assert failed.score is None and list(store.list("judgments/")) == []
    server.script = lambda asked, number: good(3)
    (score,) = judge.judge(CASES[:1], PICTURES[:1])
    assert score.score == 3.0


@pytest.mark.parametrize(
    "change", ["model", "parameters", "picture", "prompt"], ids=lambda name: name
)
def test_another_question_is_asked(server, store, change):
    VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    changed = {"model": {"model": "other"}, "parameters": {"parameters": {"seed": 1}}}
    judge = VlmJudge(settings(server, **changed.get(change, {})), store)
    asked = cases("t2i", 2)[1] if change == "prompt" else CASES[0]
    judge.judge([asked], 255 - PICTURES[:1] if change == "picture" else PICTURES[:1])
    assert len(server.asked) == 2


def test_a_busy_server_is_asked_again(server, store):
    busy = Answer(status=429, headers={"Retry-After": "0.01"})
    server.script = lambda asked, number: busy if number < 2 else good(5)
    (score,) = VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    assert score.score == 5.0
    assert len(server.asked) == 3


def test_a_server_that_stays_broken_is_an_error(server, store):
    server.script = lambda asked, number: Answer(status=500, headers=AT_ONCE)
    with pytest.raises(UserError) as refusal:
        VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    one_line(refusal, "vlm.base_url", "500", "overloaded", "try later")
    assert len(server.asked) == 4
    assert list(store.list("judgments/")) == []


@pytest.mark.parametrize(
    "text",
    [
        "I would give it a 4.",
        '{"score": 6, "reason": "great"}',
        '{"score": 0, "reason": "bad"}',
        '{"score": 4.5, "reason": "nearly"}',
        '{"score": "four", "reason": "a word"}',
        '{"score": true, "reason": "a truth"}',
        '{"score": null, "reason": "nothing"}',
        '[{"points": 4}]',
        '{"score": 4, "reason": "cut o',
        '<think>{"score": 4, "reason": "a draft"}</think> I cannot say.',
        "{" * 5000,
        "",
        None,
    ],
)
def test_what_has_no_clear_score_is_no_answer(text):
    assert parse(text, ScoreAnswer) is None


@pytest.mark.parametrize("text", ["I would give it a 4.", '{"score": 6, "reason": "great"}', None])
def test_what_cannot_be_parsed_is_counted_and_not_guessed(server, store, text):
    server.script = lambda asked, number: Answer(text)
    (score,) = VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    assert (score.score, score.failure) == (None, "unparsed")
    assert score.details == {"replies": 2, "tokens": 200, "text": text}
    assert len(server.asked) == 2


def test_a_second_answer_may_be_better(server, store):
    server.script = lambda asked, number: good(2) if number else Answer("well...")
    (score,) = VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    assert (score.score, score.failure) == (2.0, None)
    assert score.details["replies"] == 2


FENCED = '```json\n{"score": 3, "reason": "x"}\n```\n'


@pytest.mark.parametrize(
    "text",
    [
        '{"score": 3, "reason": "x"}',
        '{"score": 3.0, "reason": "x"}',
        '{"score": "3", "reason": "x"}',
        '{"score": 3}',
        '{"score": 3, "reason": "x", "sure": 1}',
        FENCED,
        f"Sure! {FENCED} I hope that this helps.",
        'Here: {"score": 3, "reason": "a {brace} in it"}',
        'Perhaps {"score": 4}? No: {"score": 3, "reason": "x"}',
        '<think>The text {reads} well, {"score": 5}.</think>\n{"score": 3, "reason": "x"}',
        '{"score": 1}</think>{"score": 3, "reason": "the first tag was in the template"}',
    ],
)
def test_an_answer_is_found_in_what_a_model_says(text):
    assert parse(text, ScoreAnswer).score == 3


@pytest.mark.parametrize(
    "answer",
    [
        Answer(refusal="I cannot judge this."),
        Answer(finish="content_filter"),
        Answer('{"score": 4, "reason": "cut"}', finish="content_filter"),
        Answer(status=400, body=b'{"error": {"message": "no", "code": "content_filter"}}'),
    ],
    ids=["refusal", "filtered", "filtered-text", "filtered-status"],
)
def test_a_refusal_is_counted_and_not_asked_again(server, store, answer):
    server.script = lambda asked, number: answer
    (score,) = VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    assert (score.score, score.failure) == (None, "refused")
    assert len(server.asked) == 1


def test_the_budget_of_requests_is_never_exceeded(server, store):
    many = cases("t2i", 4)
    pictures = np.repeat(PICTURES, 4, axis=0)
    limited = VlmJudge(settings(server, max_requests=5, concurrency=4), store)
    with pytest.raises(UserError) as refusal:
        limited.judge(many, pictures)
    one_line(refusal, "vlm.max_requests: 5 do not suffice", "5 requests and", "run again")
    assert len(server.asked) == 5
    with pytest.raises(UserError):
        limited.judge(many, pictures)  # what was answered is not asked again
    assert len(server.asked) == 10
    assert len(limited.judge(many, pictures)) == 12
    assert len(server.asked) == 12


def test_retries_count_as_requests(server, store):
    server.script = lambda asked, number: Answer(status=503, headers=AT_ONCE)
    with pytest.raises(UserError, match="max_requests: 2 do not suffice"):
        VlmJudge(settings(server, max_requests=2), store).judge(CASES[:1], PICTURES[:1])
    assert len(server.asked) == 2


def test_the_budget_of_tokens_ends_the_questions(server, store):
    judge = VlmJudge(settings(server, max_tokens=200, concurrency=1), store)
    with pytest.raises(UserError) as refusal:
        judge.judge(CASES, PICTURES)
    one_line(refusal, "vlm.max_tokens: 200 do not suffice", "2 requests and 200 tokens")
    assert len(server.asked) == 2


def test_a_wrong_key_is_not_shown(server, store, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong-42")
    with pytest.raises(UserError) as refusal:
        VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    one_line(refusal, "401", "JUDGE_KEY")
    assert "sk-wrong-42" not in str(refusal.value)


def test_a_server_error_that_quotes_the_key_is_redacted(server, store):
    said = json.dumps({"error": {"message": f"no model seer for {KEY}"}}).encode()
    server.script = lambda asked, number: Answer(status=404, body=said)
    with pytest.raises(UserError) as refusal:
        VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    one_line(refusal, "404", "no model seer for ***", "vlm.model")
    assert KEY not in str(refusal.value)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Answer(body=b"{not json"),
        Answer(body=b'{"object": "chat.completion", "choices": []}'),
    ],
    ids=["page", "broken", "empty"],
)
def test_another_protocol_is_an_error(server, store, answer):
    server.script = lambda asked, number: answer
    with pytest.raises(UserError) as refusal:
        VlmJudge(settings(server), store).judge(CASES[:1], PICTURES[:1])
    one_line(refusal, "vlm.base_url", "base_url")


def test_a_slow_server_is_an_error(server, store, monkeypatch):
    monkeypatch.setattr("flash_ray.models.endpoint.RETRIES", 0)
    release = Event()

    def wait(asked: Asked, number: int) -> Answer:
        release.wait()
        return good(1)

    server.script = wait
    with pytest.raises(UserError) as refusal:
        VlmJudge(settings(server, timeout=0.2), store).judge(CASES[:1], PICTURES[:1])
    release.set()
    one_line(refusal, "0.2 s", "vlm.timeout")


def test_no_server_is_an_error(server, store, monkeypatch):
    monkeypatch.setattr("flash_ray.models.endpoint.RETRIES", 0)
    with pytest.raises(UserError) as refusal:
        judge = VlmJudge(settings(server, base_url="http://127.0.0.1:9/v1"), store)
        judge.judge(CASES[:1], PICTURES[:1])
    one_line(refusal, "http://127.0.0.1:9/v1 cannot be reached")


@pytest.mark.parametrize("kept", [b"[{]", b"[]", b'[{"text": "?", "refused": false, "tokens": 1}]'])
def test_what_is_kept_and_has_no_score_is_asked_for_again(server, store, kept):
    judge = VlmJudge(settings(server), store)
    judge.judge(CASES[:1], PICTURES[:1])
    (key,) = store.list("judgments/")
    store.put_bytes(key, kept)
    server.script = lambda asked, number: good(2)
    (score,) = judge.judge(CASES[:1], PICTURES[:1])
    assert score.score == 2.0
    assert store.get_bytes(key) != kept


GOOD = "base_url: https://api.example.org/v1\nmodel: seer\nmax_requests: 10\n"


def test_settings_come_from_a_file(tmp_path):
    file = tmp_path / "judge.yaml"
    file.write_text(f"{GOOD}parameters: {{temperature: 0}}\n")
    read = read_settings(str(file), VlmSettings, "--judge vlm")
    assert (read.model, read.key_variable, read.timeout) == ("seer", None, 120.0)
    assert read.parameters == {"temperature": 0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: seer\nmax_requests: 1", "base_url: missing"),
        (f"{GOOD}api_key: {KEY}", "api_key: unknown key 'api_key'; allowed"),
        (f"{GOOD}key_variable: {KEY}", "key_variable: "),
        (GOOD.replace("https://", f"https://me:{KEY}@"), "base_url: "),
        (GOOD.replace("10", "0"), "max_requests: "),
        (f"{GOOD}concurrency: 65", "concurrency: "),
        (f"{GOOD}timeout: .nan", "timeout: "),
        ("- a list", "not a mapping"),
        ("model: [", "not valid YAML"),
    ],
)
def test_wrong_settings_are_refused_without_their_values(tmp_path, text, says):
    file = tmp_path / "judge.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as refusal:
        read_settings(str(file), VlmSettings, "--judge vlm")
    one_line(refusal, f"--judge vlm:{file}: {says}")
    assert KEY not in str(refusal.value)


def test_a_key_that_is_not_there_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    file = tmp_path / "judge.yaml"
    file.write_text(f"{GOOD}key_variable: JUDGE_KEY\n")
    with pytest.raises(UserError, match="vlm.key_variable: JUDGE_KEY is not in the environment"):
        read_judges([f"vlm:{file}"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["vlm"], "'vlm' is no judge"),
        (["human"], "'human' is no judge"),
        (["exact", "exact"], "exact is given twice"),
        (["vlm:{file}", "vlm:{file}"], "vlm:seer is given twice"),
        (["vlm:none.yaml"], "vlm:none.yaml: No such file"),
    ],
)
def test_other_judges_are_refused(tmp_path, words, says):
    file = tmp_path / "judge.yaml"
    file.write_text(GOOD)
    with pytest.raises(UserError, match=f"^--judge.*{says}"):
        read_judges([word.format(file=file) for word in words])


def test_judges_are_asked_in_the_order_in_which_they_were_named(tmp_path):
    file = tmp_path / "judge.yaml"
    file.write_text(GOOD)
    store = MemoryStore("bucket", "", None)
    choices = read_judges(["exact", f"vlm:{file}", "ocr"])
    judges = [open_judge(choice, store, {}) for choice in choices]
    assert [judge.name for judge in judges] == ["exact", "vlm:seer", "ocr"]


def one_line(refusal: pytest.ExceptionInfo[UserError], *says: str) -> None:
    text = str(refusal.value)
    assert "\n" not in text
    for words in says:
        assert words in text
