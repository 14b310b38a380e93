"""What the tests of the gallery share: one Chromium, and a page of it."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.helpers.endpoints import Served
from tests.helpers.gallery_page import Page


@pytest.fixture(scope="package")
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
    """The gallery, without errors of its own at the end."""
    yield Page(browser, served)
    # Errors of the page and of its content security policy; a status of 401 is neither.
    errors = [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["source"] == "javascript" or "Content Security Policy" in entry["message"]
    ]
    assert errors == []
