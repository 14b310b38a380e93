"""Tokens in the gallery: who is offered what."""

from selenium.webdriver.common.keys import Keys

from tests.helpers.gallery_page import LIMITS


def test_a_token_that_may_only_read_is_offered_what_there_is_to_read(page):
    model = page.api("/v1/models")["data"][1]["id"]
    page.api("/v1/evaluations", {"model": model, "task": "t2i", "cases": 1})
    page.sign_in("read")
    reason = "needs a token with the role generate; yours has the role read."
    assert page.one("#compare-denied").text == f"Drawing pictures {reason}"
    assert not page.usable("#compare")
    page.one("#evaluations-tab").click()
    assert page.one("#evaluate-denied").text == f"Evaluating a model {reason}"
    assert not page.usable("#evaluation-form")
    button = page.wait(lambda: page.one(f"[aria-label^='Open {model} on miniature t2i,']"))
    page.wait(button.is_displayed)
    button.click()
    page.wait(lambda: page.all(".answers img"))
    assert page.one("#alerts").text == ""


def test_only_an_admin_can_cancel_an_evaluation(page):
    asked = {"model": "teacher", "task": "edit", "cases": LIMITS["cases"], "seed": 1}
    found = page.api("/v1/evaluations", asked)["id"]  # some minutes of work
    work = f"on miniature edit, judged by exact, {LIMITS['cases']} cases a category, seed 1"
    cancel = f"[aria-label='Cancel teacher {work}']"

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
