"""Evaluations in the gallery: their list, their tables, what each judge says of an answer."""

import re
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flash_ray.evaluation.words import fault_lines
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.recipe import load_recipe
from flash_ray.serving.evaluations import EvaluationSpec
from flash_ray.serving.registry import teacher_of
from flash_ray.storage.s3 import Store
from tests.helpers.chat_server import Answer, good
from tests.helpers.endpoints import ServedStore

SCORE = r"[1-5]\.\d\d"


@pytest.fixture
def crowd(served_store: ServedStore) -> Iterator[int]:
    """Stores as many evaluations as the page lists at first, newer than those of the tests."""
    store, size = Store.from_url(served_store.url), 100
    spec = EvaluationSpec(
        model=teacher_of(load_recipe("miniature")),
        benchmark="miniature",
        digest=MiniatureBenchmark().digest,
        task="t2i",
        cases=1,
        total=3,
        seed=0,
        judge="exact",
        scale="1 to 5",
        vlm=None,
        created=2**31,
    )
    specs = [spec.model_copy(update={"seed": number}) for number in range(size)]
    homes = [f"evaluations/{one.id}" for one in specs]
    for one, home in zip(specs, homes, strict=True):
        text = one.model_dump_json()
        store.put_bytes(f"{home}/cancelled.json", b"{}")
        store.put_bytes(f"{home}/request.json", text.encode())
    yield size
    for home in homes:
        store.delete(f"{home}/request.json")
        store.delete(f"{home}/cancelled.json")


def test_an_evaluation_runs_to_its_table_and_the_worst_answers(page):
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    listed = page.evaluate(model)

    title = f"{model} on miniature t2i, judged by exact"
    assert title in listed.text and "succeeded, 3 of 3" in listed.text
    categories = page.texts(".categories tbody th")
    assert sorted(categories) == ["landscape", "portrait", "text"]
    rows = page.result(model, "t2i")["categories"].values()
    gaps = [row["details"]["diversity_gap"] for row in rows]
    described = [] if gaps == [None] * 3 else ["diversity gap"]
    heads = ["category", "cases", "score", "compliance", "quality", *described]
    assert page.texts(".categories thead th") == heads
    assert page.texts(".categories tfoot th") == ["all"]
    assert re.fullmatch(rf"{SCORE} \[{SCORE}, {SCORE}\]", page.texts(".categories tfoot td")[1])

    worst = sorted(
        page.result(model, "t2i")["answers"], key=lambda answer: (answer["score"], answer["case"])
    )
    shown = page.all(".answers > li")
    assert len(shown) == 3
    for item, answer in zip(shown, worst, strict=True):
        assert f"{answer['score']:.2f} {answer['case']}" in item.text
        assert answer["prompt"] in item.text
        assert (answer["details"]["cap"] or "") in item.text
        assert page.width(item.find_element(By.TAG_NAME, "img")) == 64
        (fault,) = [line.text for line in item.find_elements(By.CSS_SELECTOR, ".fault")]
        assert fault == wrong(answer["details"]["attributes"])

    assert page.focused().text == title
    page.one(".heading button").click()
    assert page.all(".answers") == []
    assert page.focused() == listed


def wrong(attributes: dict[str, float]) -> str:
    """What the page says of the attributes of an answer to a t2i case: the words of reports."""
    return " ".join(fault_lines(attributes)) or "Everything that was asked is there."


def test_what_an_edit_did_not_do_and_did_not_keep_is_told_apart(page):
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    page.evaluate(model, "edit")
    answers = {answer["case"]: answer for answer in page.result(model, "edit")["answers"]}
    shown = page.all(".answers > li")
    assert len(shown) == len(answers) == 6
    for item in shown:
        (case,) = [case for case in answers if case in item.text]
        lines = [line.text for line in item.find_elements(By.CSS_SELECTOR, ".fault")]
        shown_faults = {heading: words for heading, words in (line.split(": ") for line in lines)}
        for heading, part in (("Not changed as asked", "changed."), ("Not kept", "kept.")):
            attributes = answers[case]["details"]["attributes"].items()
            faults = [name for name, credit in attributes if name.startswith(part) and credit < 1]
            words = shown_faults.pop(heading, "").removesuffix(".")
            assert len(words.split(", ") if words else []) == len(faults)
            assert "_" not in words and part not in words
        assert shown_faults == {}


def test_an_evaluation_by_ocr_shows_what_was_read_and_where_there_was_nothing_to_read(page):
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    judges = [option.get_property("value") for option in page.all("#evaluation-judge option")]
    assert judges == ["exact", "ocr", "seer"] == page.api("/v1/me")["judges"]
    listed = page.evaluate(model, judge="ocr")

    assert f"{model} on miniature t2i, judged by ocr" in listed.text
    assert page.focused().text == f"{model} on miniature t2i, judged by ocr"
    rows = page.texts(".categories tbody tr")
    assert sorted(rows)[:2] == ["landscape 1, 0 judged", "portrait 1, 0 judged"]
    text, *others = page.texts(".answers > li")
    (read,) = [a for a in page.result(model, "t2i", "ocr")["answers"] if a["score"] is not None]
    assert f"{read['score']:.3f} {read['case']}" in text
    assert f"text wanted: {read['details']['wanted']}" in text
    assert f"text read: {read['details']['read'] or 'nothing'}" in text
    assert len(others) == 2
    for other in others:
        assert "No score: there is nothing here that this judge looks at." in other
    shown = page.one("#evaluation").text
    assert "compliance" not in shown and "asked is there" not in shown
    assert page.one("#alerts").text == ""


def test_a_vlms_reasons_are_shown_and_why_it_has_no_score(page, vlm):
    replies = [good(2, "The <b>moon</b> is missing."), Answer(refusal="No.")]
    vlm.script = lambda _, number: replies[number] if number < 2 else Answer("no idea")
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    page.evaluate(model, judge="seer")

    scored, *failed = page.texts(".answers > li")
    assert "2.00 " in scored and "reason: The <b>moon</b> is missing." in scored
    assert {line.text for line in page.all(".answers .failure")} == {
        "No score: the judge refused to answer.",
        "No score: the judge did not answer in the form that it was asked for.",
    }
    assert len(failed) == 2 and "what it answered: no idea" in "".join(failed)
    assert page.texts(".categories tfoot td")[:2] == ["3, 1 judged", "2.00 [2.00, 2.00]"]
    assert page.one("#alerts").text == "" and vlm.problems == []


def test_older_evaluations_are_shown_when_asked_for(page, crowd):
    model = page.api("/v1/models")["data"][1]["id"]
    page.api("/v1/evaluations", {"model": model, "task": "t2i", "cases": 1})
    page.api("/v1/evaluations", {"model": model, "task": "t2i", "cases": 1, "seed": 2})
    items = "#evaluation-list > li"
    page.sign_in()
    page.one("#evaluations-tab").click()
    page.wait(lambda: len(page.all(items)) == crowd)
    older = page.one("#older")
    older.send_keys(Keys.ENTER)
    page.wait(lambda: len(page.all(items)) > crowd)
    first = page.all(items)[crowd]
    page.wait(lambda: page.focused() == first)
    assert not older.is_displayed()
    work = "on miniature t2i, judged by exact, 1 case a category, seed 2"
    newest = page.one(f"[aria-label='Open {model} {work}']")
    page.wait(newest.is_displayed)  # it has been asked for again until it had ended
    assert newest.find_element(By.XPATH, "ancestor::li") == first == page.focused()

    page.sign_in()
    page.evaluate(model)  # one that there is, too old for the first page
