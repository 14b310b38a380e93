"""What the tests of the gallery share: one Chromium, one store and one server for all of them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.helpers.chat_server import KEY, ChatServer, chat_server
from tests.helpers.endpoints import Served, ServedStore, start_server, store_with_students
from tests.helpers.gallery_page import LIMITS, Page


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


@pytest.fixture(scope="package")
def vlm() -> Iterator[ChatServer]:
    """Where the server's judge `seer` asks; its key is in the environment."""
    with pytest.MonkeyPatch.context() as patch, chat_server() as running:
        patch.setenv("JUDGE_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture(scope="package")
def served_store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStore]:
    """A store with the students `plain` and `bold`."""
    with store_with_students(base, tmp_path_factory.mktemp("gallery")) as store:
        yield store


@pytest.fixture(scope="package")
def start(base: Path, served_store: ServedStore, vlm: ChatServer) -> Iterator[Callable[[], Served]]:
    """Starts a server with limits and a judge of its own, unless it runs."""
    seer = {"base_url": vlm.base_url, "model": "seer", "key_variable": "JUDGE_KEY"}
    file = served_store.folder / "seer.yaml"
    file.write_text(json.dumps({**seer, "max_requests": 9, "concurrency": 1}))
    settings = [f"judges.seer={file}", *(f"limits.{k}={v}" for k, v in LIMITS.items())]
    words = [word for setting in settings for word in ("--serving", setting)]
    servers: list[Served] = []

    def running() -> Served:
        if not servers or servers[-1].process.poll() is not None:
            servers.append(start_server(base, served_store, *words))
        return servers[-1]

    yield running
    for server in servers:
        server.stop()


@pytest.fixture
def served(start: Callable[[], Served]) -> Served:
    """The server of all tests; one that stops it makes the next one start another."""
    return start()


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
