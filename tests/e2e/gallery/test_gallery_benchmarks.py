"""The gallery of a server of two benchmarks: one chooses which of them models are scored on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import Select

from flash_ray.recipe import load_recipe
from flash_ray.serving.settings import load_serving
from flash_ray.serving.tokens import ROLES, add_token, read_tokens
from flash_ray.storage.s3 import Store
from tests.helpers.endpoints import Served, ServedStore
from tests.helpers.gallery_page import DESKTOP, PHONE, Page, shoot, window
from tests.helpers.serving import in_process, over_http, write_signs


@pytest.fixture(scope="module")
def two(
    base: Path, served_store: ServedStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server, in this process, of the miniature and of signs, whose edits nobody judges."""
    folder = tmp_path_factory.mktemp("two")
    file = served_store.folder / "two.json"
    tokens = {role: add_token(file, role, role) for role in ROLES}
    settings = load_serving(None, [f"benchmarks=[miniature, {write_signs(folder)}]"])
    recipe = load_recipe("miniature", [f"base={base}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLASH_RAY_CACHE", str(folder / "cache"))
        store = Store.from_url(served_store.url)
        service = in_process(recipe, store, settings, read_tokens(file))
        with over_http(service) as url:
            yield Served(url, tokens, served_store, None)


@pytest.fixture(scope="module")
def drawn(two: Served, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same of a recipe whose benchmark is drawn and not judged."""
    file = tmp_path_factory.mktemp("drawn") / "lakes.jsonl"
    file.write_text('{"id": "one", "prompt": "A lake", "category": "land"}')
    evaluation = f"evaluation={{benchmark: {{t2i: {file}}}}}"
    recipe = load_recipe("miniature", [f"base={base}", evaluation])
    shared = Store.from_url(two.store.url)
    store = Store(shared.bucket, "drawn", shared.endpoint)  # no student brings a benchmark
    tokens = read_tokens(two.store.folder / "two.json")
    with over_http(in_process(recipe, store, load_serving(None), tokens)) as url:
        yield Served(url, two.tokens, two.store, None)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Served:
    return request.getfixturevalue(getattr(request, "param", "two"))


def lines(page: Page) -> dict[str, str]:
    """What the list of models says of each one's scores."""
    found = (label.text.split("\n") for label in page.all("#models label"))
    return {first: last for first, *_, last in found}


def take(page: Page, benchmark: str, prefix: str = "") -> None:
    Select(page.one(f"#{prefix}benchmark")).select_by_value(benchmark)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_benchmark_of_a_comparison_brings_its_tasks_categories_judge_and_scores(
    page, size, tmp_path
):
    with window(page.browser, size):
        page.sign_in()
        assert [one.text for one in Select(page.one("#benchmark")).options] == [
            "miniature",
            "signs",
        ]
        assert page.one("#judge").text == "exact"
        assert lines(page)["plain"].startswith("t2i 3.00, edit 3.00")
        shoot(page.browser, tmp_path / "first.png")
        assert page.fits()

        take(page, "signs")
        assert page.one("#benchmark-name").text == "signs" and page.one("#judge").text == "ocr"
        assert page.texts("#categories label") == ["wood"]
        assert lines(page)["plain"] == "scored on miniature only, by exact"
        page.generate()
        assert page.one("#compare-status").text == "2 of 2 pictures drawn, 2 judged."
        assert "Scores by ocr: characters right, 0 to 1." in page.one("#grid").text
        assert {page.width(picture) for picture in page.all("#grid td img")} == {96}
        shoot(page.browser, tmp_path / "signs.png")
        assert page.fits()

        Select(page.one("#task")).select_by_value("edit")
        assert page.texts("#categories label") == ["color"]
        assert page.one("#judge").text == "nobody"
        page.generate()
        assert page.one("#compare-status").text == "2 of 2 pictures drawn."
        assert "Scores" not in page.one("#grid").text

        take(page, "miniature")
        assert page.one("#judge").text == "exact"
        assert "scene" in page.texts("#categories label")


def test_the_benchmark_of_an_evaluation_brings_its_tasks_and_judges(page, tmp_path):
    page.sign_in()
    page.one("#evaluations-tab").click()
    assert page.one("#evaluation-judge").is_displayed()
    take(page, "signs", "evaluation-")
    assert page.one("#evaluation-benchmark-name").text == "signs"
    for field in ("task", "judge"):  # it has texts for ocr, and no edit that anybody can judge
        assert not page.one(f"#evaluation-{field}").is_displayed()
    Select(page.one("#evaluation-model")).select_by_value("plain")
    page.one("#evaluate").click()
    label = "Open plain on signs t2i, judged by ocr, 2 cases a category, seed 0"
    page.labelled(label)

    take(page, "miniature", "evaluation-")
    judges = [one.text for one in Select(page.one("#evaluation-judge")).options]
    assert judges == ["exact", "ocr"] and page.one("#evaluation-judge").is_displayed()
    ocr = {"model": "bold", "benchmark": "miniature", "task": "t2i", "cases": 1, "judge": "ocr"}
    other = page.api("/v1/evaluations", ocr)
    page.browser.refresh()
    page.wait(lambda: page.one("#evaluations-tab").is_displayed())
    page.one("#evaluations-tab").click()
    page.labelled("Choose plain on signs t2i, judged by ocr, 2 cases a category, seed 0").click()
    page.labelled(
        f"Choose bold on miniature t2i, judged by ocr, {other['cases']} case a category, seed 0"
    ).click()
    page.one("#beside").click()
    note = page.wait(lambda: page.one("#evaluation .unlike"))
    assert "the two differ in benchmark and cases (2 and 3)" in note.text.replace(
        "(3 and 2)", "(2 and 3)"
    )
    assert "Score bold on 2 cases a category of signs" in note.text
    with window(page.browser, PHONE):
        cells = page.all(".pair tbody tr:first-child :is(th, td)")
        assert len({page.box(cell)["left"] for cell in cells}) == len(cells) == 3
        for field in ("evaluation-benchmark", "benchmark"):  # a name may have 100 characters
            script = "arguments[0].options[0].text = 'a-long-name-'.repeat(8)"
            page.browser.execute_script(script, page.one(f"#{field}"))
        shoot(page.browser, tmp_path / "phone.png")
        assert page.fits()
        page.one("#compare-tab").click()
        assert page.fits()


@pytest.mark.parametrize("served", ["drawn"], indirect=True)
def test_cases_that_nobody_judges_are_drawn_and_nothing_claims_a_score(page):
    page.sign_in()
    assert not page.one("[role=tablist]").is_displayed()
    assert page.one("#judge").text == "nobody" and page.one("#benchmark-name").text == "lakes"
    page.generate()
    assert page.one("#compare-status").text == "1 of 1 picture drawn."
    assert "score" not in page.one("body").text.lower()
