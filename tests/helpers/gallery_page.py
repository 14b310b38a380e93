"""The gallery in a browser, in the words of a person who uses it."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from flash_ray.serving.tokens import Role
from tests.helpers.endpoints import Served

DESKTOP, PHONE = (1440, 900), (390, 844)  # windows that the pages are made for
LIMITS = {"cases": 24, "prompt": 100, "image_bytes": 150_000}  # of the tests' server
WAIT_S = 300  # the longest that a busy machine may take for one step


@contextmanager
def window(browser: webdriver.Chrome, size: tuple[int, int]) -> Iterator[None]:
    """A window of so many pixels."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def shoot(browser: webdriver.Chrome, file: Path) -> None:
    """Writes the whole page as a PNG, to be looked at; at most 3,000 pixels of its height."""
    width, height = browser.execute_script(
        "return [innerWidth, document.documentElement.scrollHeight]"
    )
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, 3000), "scale": 1}
    options = {"captureBeyondViewport": True, "clip": clip}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", options)
    file.write_bytes(base64.b64decode(taken["data"]))


class Page:
    """The gallery in a browser, with the words of a person who uses it."""

    def __init__(self, browser: webdriver.Chrome, served: Served):
        self.browser, self.served = browser, served

    def open(self) -> None:
        """The page of somebody who was never here; it asks for a token."""
        self.browser.get(self.served.url)
        self.browser.execute_script("sessionStorage.clear()")
        self.browser.refresh()
        self.wait(lambda: self.one("#token-dialog").is_displayed())

    def sign_in(self, role: Role = "admin") -> None:
        self.open()
        self.one("#token").send_keys(self.served.tokens[role], Keys.ENTER)
        self.wait(lambda: self.one("#models input"))

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.all(selector)]

    def wait(self, holds: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, WAIT_S, 0.1).until(lambda _: holds())

    def api(self, path: str, body: Any = None) -> Any:
        """What the server itself says, to a body if there is one."""
        headers = {"Authorization": f"Bearer {self.served.token}"}
        headers |= {"Content-Type": "application/json"} if body else {}
        data = json.dumps(body).encode() if body else None
        with urlopen(Request(self.served.url + path, data, headers)) as answer:
            return json.load(answer)

    def requested(self) -> list[str]:
        """The paths that the page has asked for."""
        script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        names = self.browser.execute_script(script)
        return [name.removeprefix(self.served.url) for name in names]

    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element

    def write_prompts(self, *prompts: str) -> None:
        self.one("[name=source][value=own]").click()
        self.one("#prompts").click()
        # As an input method does: the driver's keys have no characters beyond the first plane.
        self.browser.execute_cdp_cmd("Input.insertText", {"text": "\n".join(prompts)})

    def take_cases(self, task: str, category: str) -> None:
        """One case, of one category of a task."""
        Select(self.one("#task")).select_by_value(task)
        for box in self.all("#categories input"):
            if box.get_attribute("value") != category:
                box.click()

    def generate(self) -> None:
        self.one("#generate").click()
        self.finish()

    def finish(self) -> None:
        """Waits for the end of a comparison, however it ends."""
        self.wait(lambda: self.one("#generate").is_enabled())

    def answers(self) -> list[WebElement]:
        """The cells of the models."""
        return self.all("#grid td:not(.input)")

    def heads(self) -> list[str]:
        """What the models' columns say under their names."""
        return self.texts("#grid thead span")

    def width(self, picture: WebElement) -> int:
        """The width of a picture's file in pixels, once it is loaded."""
        return self.wait(lambda: picture.get_property("naturalWidth"))

    def evaluate(self, model: str, task: str = "t2i", judge: str = "exact") -> WebElement:
        """Asks for an evaluation of a case a category and opens it; its place in the list."""
        self.one("#evaluations-tab").click()
        Select(self.one("#evaluation-model")).select_by_value(model)
        Select(self.one("#evaluation-task")).select_by_value(task)
        Select(self.one("#evaluation-judge")).select_by_value(judge)
        cases = self.one("#evaluation-cases")
        cases.clear()
        cases.send_keys("1", Keys.ENTER)
        work = f"on miniature {task}, judged by {judge}, 1 case a category, seed 0"
        label = f"Open {model} {work}"
        button = self.wait(lambda: self.one(f"[aria-label='{label}']"))
        self.wait(button.is_displayed)
        button.click()
        self.wait(lambda: self.all(".answers img") and not self.all(".answers .frame"))
        return button.find_element(By.XPATH, "ancestor::li")

    def result(self, model: str, task: str, judge: str = "exact") -> dict[str, Any]:
        """What the server says of the evaluation that `evaluate` asks for."""
        fields = {"model": model, "task": task, "cases": 1, "seed": 0, "judge": judge}
        listed = self.api("/v1/evaluations")["data"]
        (id,) = [view["id"] for view in listed if fields.items() <= view.items()]
        return self.api(f"/v1/evaluations/{id}")["result"]

    def settle(self, model: str, cases: int = 1, task: str = "t2i") -> Any:
        """The evaluation of a model by the exact judge, once it has ended."""
        asked = {"model": model, "task": task, "cases": cases}
        evaluation = self.served.settled(self.api("/v1/evaluations", asked)["id"])
        assert evaluation["status"] == "succeeded", evaluation
        return evaluation

    def choose(self, *evaluations: Any) -> None:
        """Chooses exactly these in the list of evaluations."""
        self.one("#evaluations-tab").click()
        for box in self.all("#evaluation-list input:checked"):
            box.click()
        for evaluation in evaluations:
            cases = f"{evaluation['cases']} case{'s' if evaluation['cases'] > 1 else ''}"
            label = (
                f"Choose {evaluation['model']} on miniature {evaluation['task']}, judged by exact, "
                f"{cases} a category, seed 0"
            )
            self.labelled(label).click()

    def labelled(self, label: str) -> WebElement:
        """The control of that name, once it is shown."""
        control: WebElement = self.wait(lambda: self.one(f"[aria-label='{label}']"))
        self.wait(control.is_displayed)
        return control

    def box(self, element: WebElement) -> dict[str, float]:
        """Where an element is in the window: left, right, top, bottom, width, height."""
        script = "return arguments[0].getBoundingClientRect().toJSON()"
        return self.browser.execute_script(script, element)

    def usable(self, part: str) -> list[WebElement]:
        """The controls of a part of the page that can be used now."""
        found = self.all(f"{part} :is(button, input, select, textarea)")
        return [one for one in found if one.is_displayed() and one.is_enabled()]

    def complaint(self) -> str:
        """What the browser says of the field that it went to."""
        return str(self.focused().get_property("validationMessage"))

    def fits(self) -> bool:
        """Whether the page does not scroll sideways."""
        script = "return document.scrollingElement.scrollWidth <= innerWidth"
        return self.browser.execute_script(script)
