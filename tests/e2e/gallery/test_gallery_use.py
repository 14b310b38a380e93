"""The gallery in use: keyboard, narrow windows, wrong input, errors, a server that is gone."""

import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.helpers.gallery_page import LIMITS


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


def test_what_the_server_would_not_take_is_known_before_it_is_asked(page, tmp_path):
    large = tmp_path / "large.png"
    Image.effect_noise((500, 500), 200).save(large)
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


@pytest.mark.slow
def test_a_server_that_is_gone_and_comes_back_with_its_evaluations(page, start):
    page.sign_in()
    page.write_prompts("a face")
    page.generate()
    assert page.one("#alerts").text == ""
    before = page.api("/v1/evaluations")["data"]
    evaluation = page.api("/v1/evaluations", {"model": "bold", "task": "edit", "cases": 3})["id"]
    page.served.stop()
    assert page.served.process.returncode == 130

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

    again = start()
    assert again.settled(evaluation)["status"] == "succeeded"
    after = again.call("GET", "/v1/evaluations")[1]["data"]
    assert {one["id"] for one in after} == {one["id"] for one in before} | {evaluation}
