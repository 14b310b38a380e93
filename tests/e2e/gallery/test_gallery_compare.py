"""Comparisons in the gallery: models side by side on prompts, pictures and cases."""

import re

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

SCORE = r"[1-5]\.\d\d"
SECONDS = r"\d+\.\d+ s"

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


@pytest.mark.parametrize(("task", "category"), [("t2i", "landscape"), ("edit", "scene")])
def test_cases_of_a_benchmark_are_judged(page, task, category):
    page.sign_in()
    assert not page.one("#benchmark").is_displayed()  # there is only one
    page.take_cases(task, category)
    page.generate()

    case = page.api(f"/v1/benchmarks/miniature/{task}/cases?per_category=1")["data"][0]
    row = page.one("#grid tbody th").text
    assert case["prompt"] in row and row.endswith(f"{category}-000, seed {case['seed']}")
    assert page.one("#compare-status").text == "2 of 2 pictures drawn, 2 judged."
    assert len(page.all("#grid td.input img")) == len(case["references"])
    scores = page.texts("#grid td strong")
    assert len(scores) == 2
    for cell, score, head in zip(page.answers(), scores, page.heads(), strict=True):
        assert re.fullmatch(SCORE, score)
        assert head.startswith(f"mean {score}, median ")
        cell.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
        facts = cell.find_element(By.TAG_NAME, "details").text
        assert "compliance" in facts and "quality" in facts and f"seed\n{case['seed']}" in facts


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
