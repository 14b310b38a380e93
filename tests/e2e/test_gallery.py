"""The gallery as a person uses it, in a real Chromium; the last test stops the server."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from flash_ray.recipe import load_recipe
from flash_ray.serving.evaluations import Asked
from flash_ray.serving.registry import teacher_of
from flash_ray.storage.s3 import Store
from tests.helpers.chat_server import KEY, Answer, ChatServer, chat_server, good
from tests.helpers.endpoints import Place, Served, start_server
from tests.helpers.gallery_page import Page

SCORE = r"[1-5]\.\d\d"
SECONDS = r"\d+\.\d+ s"
LIMITS = {"cases": 24, "prompt": 100, "image_bytes": 100_000}

# The next request for pictures is told that the server is busy.
BUSY_ONCE = """
const real = window.fetch;
window.fetch = (path, ...rest) => {
  if (!path.startsWith("/v1/images/")) return real(path, ...rest);
  window.fetch = real;
  const error = { message: "busy", type: "rate_limit_error", param: null, code: null };
  const headers = { "Retry-After": "2" };
  return Promise.resolve(new Response(JSON.stringify({ error }), { status: 429, headers }));
};
// Every text that a cell has had.
window.seen = [];
new MutationObserver(() => window.seen.push(document.querySelector("#grid").textContent))
  .observe(document.querySelector("#grid"), { childList: true, subtree: true });
"""


@pytest.fixture(scope="module")
def vlm() -> Iterator[ChatServer]:
    """Where the server's judge `seer` asks; its key is in the environment."""
    with pytest.MonkeyPatch.context() as patch, chat_server() as running:
        patch.setenv("JUDGE_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture(scope="module")
def served(base: Path, place: Place, vlm: ChatServer) -> Iterator[Served]:
    """A server with limits and a judge of its own."""
    seer = {"base_url": vlm.base_url, "model": "seer", "key_variable": "JUDGE_KEY"}
    file = place.folder / "seer.yaml"
    file.write_text(json.dumps({**seer, "max_requests": 9, "concurrency": 1}))
    settings = [f"judges.seer={file}", *(f"limits.{k}={v}" for k, v in LIMITS.items())]
    words = [word for setting in settings for word in ("--serving", setting)]
    server = start_server(base, place, *words)
    yield server
    server.stop()


@pytest.fixture
def crowd(place: Place) -> Iterator[int]:
    """As many evaluations as the page lists at first, newer than all that the tests ask for."""
    store = Store.from_url(place.store)
    model, size = teacher_of(load_recipe("miniature")), 100
    homes = [f"evaluations/eval-crowd-{number}" for number in range(size)]
    for number, home in enumerate(homes):
        asked = Asked(model, "t2i", 1, number, created=2**31)
        store.put_bytes(f"{home}/cancelled.json", b"{}")
        store.put_bytes(f"{home}/request.json", json.dumps(asdict(asked)).encode())
    yield size
    for home in homes:
        store.delete(f"{home}/request.json")
        store.delete(f"{home}/cancelled.json")


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "these tests need chromium and chromedriver in PATH"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, served: Served) -> Iterator[Page]:
    yield Page(browser, served)
    # Errors of the page and of its content security policy; a status of 401 is neither.
    errors = [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["source"] == "javascript" or "Content Security Policy" in entry["message"]
    ]
    assert errors == []


def test_two_models_draw_a_prompt_from_the_same_noise(page):
    page.sign_in()
    first, second = (model["id"] for model in page.api("/v1/models")["data"][:2])
    page.write_prompts("a night sky over snow")
    page.one("#seed").clear()
    page.one("#seed").send_keys("7")
    assert page.one("#generate").text == "Generate 2 pictures"
    page.generate()

    assert page.one("#compare-status").text == "2 of 2 pictures drawn."
    answers = page.answers()
    assert [page.width(cell.find_element(By.TAG_NAME, "img")) for cell in answers] == [64, 64]
    for cell, model in zip(answers, (first, second), strict=True):
        assert re.match(SECONDS, cell.find_element(By.CSS_SELECTOR, ".time").text)
        facts = cell.find_element(By.TAG_NAME, "details").get_property("textContent")
        assert re.search(r"seed7\D", facts)
        raw = cell.find_element(By.CSS_SELECTOR, "a.picture")
        assert raw.get_property("href").startswith("blob:") and raw.get_property("target")
        save = cell.find_element(By.CSS_SELECTOR, "a.save")
        assert save.get_property("download") == f"{model}-prompt-1.png"
    assert all(re.fullmatch(f"median {SECONDS}", head) for head in page.heads())


def test_an_uploaded_picture_is_edited(page, tmp_path):
    Image.new("RGB", (64, 64), "green").save(tmp_path / "meadow.png")
    page.sign_in()
    page.write_prompts("make the sky red", "make it a sepia photo")
    page.one("#picture").send_keys(str(tmp_path / "meadow.png"))
    assert page.one("#picture-preview img").is_displayed()
    page.generate()

    assert page.one("#compare-status").text == "4 of 4 pictures drawn."
    assert {page.width(picture) for picture in page.all("#grid td img")} == {64}
    assert len(page.all("#grid td.input img")) == 2
    asked = [path for path in page.requested() if path.startswith("/v1/images/")]
    assert asked == ["/v1/images/edits"] * 4


@pytest.mark.parametrize(("bench", "category"), [("t2i", "landscape"), ("edit", "scene")])
def test_cases_of_a_bench_are_judged(page, bench, category):
    page.sign_in()
    page.take_cases(bench, category)
    page.generate()

    case = page.api(f"/v1/benches/{bench}/cases?per_category=1")["data"][0]
    row = page.one("#grid tbody th").text
    assert case["prompt"] in row and row.endswith(f"{category}-000, seed {case['seed']}")
    assert page.one("#compare-status").text == "2 of 2 pictures drawn, 2 judged."
    assert len(page.all("#grid td.input img")) == (1 if case["input"] else 0)
    scores = page.texts("#grid td strong")
    assert len(scores) == 2
    for cell, score, head in zip(page.answers(), scores, page.heads(), strict=True):
        assert re.fullmatch(SCORE, score)
        assert head.startswith(f"mean {score}, median ")
        cell.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        facts = cell.find_element(By.TAG_NAME, "details").text
        assert "compliance" in facts and "quality" in facts and f"seed\n{case['seed']}" in facts


def test_an_evaluation_runs_to_its_table_and_the_worst_answers(page):
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    listed = page.evaluate(model)

    assert f"{model} on t2i" in listed.text and "succeeded, 3 of 3" in listed.text
    categories = page.texts(".categories tbody th")
    assert sorted(categories) == ["landscape", "portrait", "text"]
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
        assert (answer["cap"] or "") in item.text
        assert page.width(item.find_element(By.TAG_NAME, "img")) == 64
        (fault,) = [line.text for line in item.find_elements(By.CSS_SELECTOR, ".fault")]
        assert fault == wrong(answer["attributes"])

    assert page.focused().text == f"{model} on t2i"
    page.one(".heading button").click()
    assert page.all(".answers") == []
    assert page.focused() == listed


def wrong(attributes: dict[str, float]) -> str:
    """What the page says of the attributes of an answer to a t2i case."""
    special = {"no_other_objects": "number of objects", "wears": "what is worn"}
    found = [
        special.get(name, name.replace("_", " ")) + (" (half right)" if credit else "")
        for name, credit in attributes.items()
        if credit < 1
    ]
    return f"Wrong: {', '.join(found)}." if found else "Everything that was asked is there."


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
        told = {heading: words for heading, words in (line.split(": ") for line in lines)}
        for heading, part in (("Not changed as asked", "changed."), ("Not kept", "kept.")):
            attributes = answers[case]["attributes"].items()
            faults = [name for name, credit in attributes if name.startswith(part) and credit < 1]
            words = told.pop(heading, "").removesuffix(".")
            assert len(words.split(", ") if words else []) == len(faults)
            assert "_" not in words and part not in words
        assert told == {}


def test_an_evaluation_by_ocr_shows_what_was_read_and_where_there_was_nothing_to_read(page):
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    judges = [option.get_property("value") for option in page.all("#evaluation-judge option")]
    assert judges == ["exact", "ocr", "seer"] == page.api("/v1/me")["judges"]
    listed = page.evaluate(model, judge="ocr")

    assert f"{model} on t2i, judged by ocr" in listed.text
    assert page.focused().text == f"{model} on t2i, judged by ocr"
    rows = page.texts(".categories tbody tr")
    assert sorted(rows)[:2] == ["landscape 1, 0 judged", "portrait 1, 0 judged"]
    text, *others = page.texts(".answers > li")
    (read,) = [a for a in page.result(model, "t2i", "ocr")["answers"] if a["score"] is not None]
    assert f"{read['score']:.2f} {read['case']}" in text
    assert f"text wanted: {read['details']['wanted']}" in text
    assert f"text read: {read['details']['read'] or 'nothing'}" in text
    assert len(others) == 2
    for other in others:
        assert "No opinion: there is nothing here that this judge looks at." in other
    shown = page.one("#evaluation").text
    assert "compliance ," not in shown and "asked is there" not in shown
    assert page.one("#alerts").text == ""


def test_a_vlms_reasons_are_shown_and_why_it_has_no_opinion(page, vlm):
    replies = [good(2, "The <b>moon</b> is missing."), Answer(refusal="No.")]
    vlm.script = lambda _, number: replies[number] if number < 2 else Answer("no idea")
    page.sign_in()
    model = page.api("/v1/models")["data"][1]["id"]
    page.evaluate(model, judge="seer")

    scored, *failed = page.texts(".answers > li")
    assert "2.00 " in scored and "reason: The <b>moon</b> is missing." in scored
    assert {line.text for line in page.all(".answers .failure")} == {
        "No opinion: the judge refused to answer.",
        "No opinion: the judge did not answer in the form that it was asked for.",
    }
    assert len(failed) == 2 and "what it answered: no idea" in "".join(failed)
    assert page.texts(".categories tfoot td")[:2] == ["3, 1 judged", "2.00 [2.00, 2.00]"]
    assert page.one("#alerts").text == "" and vlm.problems == []


def test_older_evaluations_are_shown_when_asked_for(page, crowd):
    model = page.api("/v1/models")["data"][1]["id"]
    page.api("/v1/evaluations", {"model": model, "bench": "t2i", "cases": 1})
    page.api("/v1/evaluations", {"model": model, "bench": "t2i", "cases": 1, "seed": 2})
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
    newest = page.one(f"[aria-label='Open {model} on t2i, 1 case a category, seed 2']")
    page.wait(newest.is_displayed)  # it has been asked for again until it had ended
    assert newest.find_element(By.XPATH, "ancestor::li") == first == page.focused()

    page.sign_in()
    page.evaluate(model)  # one that there is, too old for the first page


def test_a_token_that_may_only_read_is_offered_what_there_is_to_read(page):
    model = page.api("/v1/models")["data"][1]["id"]
    page.api("/v1/evaluations", {"model": model, "bench": "t2i", "cases": 1})
    page.sign_in("read")
    reason = "needs a token with the role generate; yours has the role read."
    assert page.one("#compare-denied").text == f"Drawing pictures {reason}"
    assert not page.usable("#compare")
    page.one("#evaluations-tab").click()
    assert page.one("#evaluate-denied").text == f"Evaluating a model {reason}"
    assert not page.usable("#evaluation-form")
    button = page.wait(lambda: page.one(f"[aria-label^='Open {model} on t2i']"))
    page.wait(button.is_displayed)
    button.click()
    page.wait(lambda: page.all(".answers img"))
    assert page.one("#alerts").text == ""


def test_only_an_admin_can_cancel_an_evaluation(page):
    asked = {"model": "teacher", "bench": "edit", "cases": LIMITS["cases"], "seed": 1}
    found = page.api("/v1/evaluations", asked)["id"]  # some minutes of work
    cancel = f"[aria-label='Cancel teacher on edit, {LIMITS['cases']} cases a category, seed 1']"

    page.sign_in("generate")
    assert page.usable("#compare") and not page.one("#compare-denied").is_displayed()
    page.one("#evaluations-tab").click()
    assert page.usable("#evaluation-form") and not page.one("#evaluate-denied").is_displayed()
    button = page.wait(lambda: page.one(cancel))
    assert button.is_displayed() and not button.is_enabled()
    why = page.one(f"#{button.get_attribute('aria-describedby')}")
    page.wait(why.is_displayed)
    assert why.text == (
        "Cancelling an evaluation needs a token with the role admin; yours has the role generate."
    )

    page.sign_in("admin")
    page.one("#evaluations-tab").click()
    button = page.wait(lambda: page.one(cancel))
    assert not page.one("#cancel-denied").is_displayed()
    button.click()
    page.wait(lambda: not button.is_displayed())
    assert page.api(f"/v1/evaluations/{found}")["status"] == "cancelled"


def test_a_wrong_token_says_so_and_the_right_one_is_kept_in_the_tab(page):
    page.open()
    page.one("#token-cancel").click()
    page.wait(lambda: "none was given" in page.one("#alerts").text)
    assert not page.one("#generate").is_enabled()
    page.one("#alerts button").click()

    page.wait(lambda: page.one("#token-dialog").is_displayed())
    page.one("#token").send_keys("wrong", Keys.ENTER)
    page.wait(lambda: page.one("#token-problem").text == "The server does not know this token.")
    page.one("#token").send_keys(page.served.token, Keys.ENTER)
    page.wait(lambda: len(page.all("#models input")) >= 2)
    assert not page.one("#token-dialog").is_displayed()
    assert page.one("#alerts").text == ""

    stores = "return [sessionStorage.length, localStorage.length, document.cookie]"
    assert page.browser.execute_script(stores) == [1, 0, ""]
    page.browser.refresh()
    page.wait(lambda: page.one("#generate").is_enabled())
    page.one("#forget").click()
    page.wait(lambda: page.one("#token-dialog").is_displayed())
    assert page.browser.execute_script("return sessionStorage.length") == 0


def test_a_busy_server_is_asked_again(page):
    page.sign_in()
    page.write_prompts("a face")
    page.browser.execute_script(BUSY_ONCE)
    page.generate()
    assert page.one("#compare-status").text == "2 of 2 pictures drawn."
    seen = page.browser.execute_script("return window.seen")
    assert any("server busy, again in 2 s" in text for text in seen)


def test_a_stopped_comparison_can_be_completed(page):
    page.sign_in()
    page.write_prompts(*(f"picture {number}" for number in range(12)))
    # The first answer stops it, so some of the 24 are missing.
    page.browser.execute_script(
        "new MutationObserver((_, observer) => {"
        "  if (!document.querySelector('#grid td .picture')) return;"
        "  observer.disconnect();"
        "  document.querySelector('#stop').click();"
        "}).observe(document.querySelector('#grid'), { childList: true, subtree: true });"
    )
    page.generate()
    status = page.one("#compare-status").text
    drawn = int(re.fullmatch(r"Stopped: (\d+) of 24 pictures drawn\.", status)[1])
    assert 1 <= drawn < 24
    assert "not drawn" in page.texts("#grid .note") and "drawing" not in page.texts("#grid .note")

    assert page.one("#complete").text == f"Go on with the {24 - drawn} missing"
    page.one("#complete").click()
    page.finish()
    assert page.one("#compare-status").text == "24 of 24 pictures drawn."
    assert len(page.all("#grid td img")) == 24


def test_errors_of_the_page_are_shown(page):
    page.sign_in()
    page.write_prompts("a face")
    page.browser.execute_script("document.querySelector('#seed').remove()")
    page.one("#new-seed").click()  # an error
    banner = page.wait(lambda: page.one("#script-error"))
    assert banner.is_displayed() and banner.get_attribute("role") == "alert"
    assert "the page has no element #seed [dom.js:" in banner.text
    page.one("#generate").click()  # a rejected promise
    page.wait(lambda: "the last of 2 errors" in banner.text)
    assert page.one("#generate").is_enabled()
    logged = [entry["message"] for entry in page.browser.get_log("browser")]
    assert sum("has no element" in message for message in logged) == 2


def test_the_keyboard_is_enough(page):
    def press(*keys: str) -> None:
        ActionChains(page.browser).send_keys(*keys).perform()

    def tab_to(id: str) -> None:
        for _ in range(100):
            if page.focused().get_attribute("id") == id:
                return
            press(Keys.TAB)
        pytest.fail(f"no way to #{id} with the Tab key")

    page.open()
    press(page.served.token, Keys.ENTER)
    page.wait(lambda: page.one("#generate").is_enabled())

    tab_to("compare-tab")
    press(Keys.ARROW_RIGHT)
    assert page.focused().text == "Evaluations" and page.one("#evaluation-form").is_displayed()
    press(Keys.ARROW_LEFT)
    assert page.focused().text == "Compare" and page.one("#compare-form").is_displayed()

    press(Keys.TAB)
    assert page.focused().is_selected()  # the first model
    press(Keys.SPACE)
    assert not page.focused().is_selected()
    press(Keys.TAB)
    while page.focused().get_attribute("name") != "source":
        press(Keys.TAB)
    press(Keys.ARROW_DOWN)
    assert page.focused().get_attribute("value") == "own"
    tab_to("prompts")
    press("a boat on the sea")
    tab_to("generate")
    assert page.focused().text == "Generate 1 picture"
    press(Keys.ENTER)
    page.finish()
    assert page.one("#compare-status").text == "1 of 1 picture drawn."
    assert page.focused().get_attribute("id") == "generate"
    press(Keys.TAB)
    assert page.focused().get_attribute("class") == "picture"
    press(Keys.TAB, Keys.ENTER)
    assert page.one("#grid details dt").is_displayed()


def test_a_form_that_lacks_something_says_what(page):
    page.sign_in()
    for box in page.all("#models input:checked"):
        box.click()
    page.one("#generate").click()
    assert page.complaint() == "Choose a model."
    page.one("#models input").click()
    page.one("[name=source][value=own]").click()
    page.one("#generate").click()
    assert page.complaint() == "Write a prompt."
    assert not any(path.startswith("/v1/images/") for path in page.requested())


def test_what_the_server_would_refuse_is_told_before_it_is_asked(page, tmp_path):
    large = tmp_path / "large.png"
    Image.effect_noise((400, 400), 200).save(large)
    assert large.stat().st_size > LIMITS["image_bytes"]
    page.sign_in()
    for tab, field, button in (
        ("#compare-tab", "#per-category", "#generate"),
        ("#evaluations-tab", "#evaluation-cases", "#evaluate"),
    ):
        page.one(tab).click()
        page.one(field).clear()
        page.one(field).send_keys(str(LIMITS["cases"] + 1))
        page.one(button).click()
        assert page.focused() == page.one(field) and str(LIMITS["cases"]) in page.complaint()

    page.one("#compare-tab").click()
    page.write_prompts("a face", "🌊" * (LIMITS["prompt"] + 1))
    page.one("#generate").click()
    assert page.complaint() == "Prompt 2 has 101 characters; the server takes up to 100."
    page.one("#prompts").send_keys(Keys.BACKSPACE)
    page.one("#picture").send_keys(str(large))
    page.one("#generate").click()
    assert page.complaint().endswith("the server takes up to 0.1 MiB.")
    asked = ("/v1/images/", "/v1/scores", "/v1/evaluations/")
    assert not any(path.startswith(asked) for path in page.requested())
    page.one("#picture-preview button").click()
    page.generate()
    assert page.one("#compare-status").text == "4 of 4 pictures drawn."


def test_a_narrow_window_does_not_scroll_sideways(page, tmp_path):
    upload = tmp_path / f"{'a-file-with-a-long-name' * 4}.png"
    Image.new("RGB", (600, 200)).save(upload)
    window = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    try:
        page.sign_in()
        assert page.browser.execute_script("return innerWidth") == 360
        page.take_cases("edit", "scene")
        page.generate()
        assert len(page.all("#grid td img")) == 3 and page.fits()
        for details in page.all("#grid summary"):
            details.send_keys(Keys.ENTER)
        assert page.fits()
        page.write_prompts("a prompt")
        page.one("#picture").send_keys(str(upload))
        assert page.fits()
        page.evaluate(page.api("/v1/models")["data"][1]["id"])
        assert page.fits()
        table = page.one("#evaluation [role=region]")
        table.send_keys(Keys.ARROW_RIGHT)
        page.wait(lambda: table.get_property("scrollLeft") > 0)
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_server_that_is_gone(page):
    page.sign_in()
    page.write_prompts("a face")
    page.generate()
    assert page.one("#alerts").text == ""
    page.served.stop()

    page.generate()
    first = page.wait(lambda: page.one("#alerts .alert"))
    assert "does not answer" in first.text
    assert page.texts("#grid .note") == ["not drawn"] * 2
    assert page.one("#compare-status").text == "0 of 2 pictures drawn."
    page.one("#alerts button").click()  # Retry
    page.finish()
    (second,) = page.all("#alerts .alert")
    assert second != first and "does not answer" in second.text

    page.one("#evaluations-tab").click()
    page.one("#evaluate").click()
    page.wait(lambda: len(page.all("#alerts .alert")) == 2)
