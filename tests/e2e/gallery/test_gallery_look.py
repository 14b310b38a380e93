"""How the gallery and the report look, on a desktop and on a phone; shots are in `tmp_path`."""

import pytest
from PIL import Image
from selenium.webdriver.common.by import By

from tests.helpers.gallery_page import DESKTOP, PHONE, shoot, window
from tests.helpers.reports import noise_comparisons, write_page

# The page of a store without a student.
NO_STUDENTS = """
const real = window.fetch;
window.fetch = async (path, ...rest) => {
  const answer = await real(path, ...rest);
  if (path !== "/v1/models" || !answer.ok) return answer;
  const models = await answer.json();
  models.data = models.data.filter((model) => model.kind === "teacher");
  return new Response(JSON.stringify(models), { status: 200 });
};
"""


def boxes_by_row(page, rows, selector):
    found = (row.find_elements(By.CSS_SELECTOR, selector) for row in page.all(rows))
    return [[page.box(one) for one in row] for row in found]


@pytest.mark.parametrize(("size", "least"), [(DESKTOP, 320), (PHONE, 160)])
def test_pictures_use_the_width_of_the_screen(page, size, least, tmp_path):
    with window(page.browser, size):
        page.sign_in()
        page.take_cases("t2i", "landscape")
        page.one("#per-category").clear()
        page.one("#per-category").send_keys("2")
        page.generate()
        shoot(page.browser, tmp_path / "compare.png")
        assert page.fits()
        rows = boxes_by_row(page, "#grid tbody tr", "td img")
        assert len(rows) == 2
        for row in rows:
            assert len(row) == 2 and len({box["top"] for box in row}) == 1
            assert all(box["width"] >= least for box in row)
            assert row[1]["right"] > 0.9 * size[0]
            if size == DESKTOP:  # whole pixels of the 64 that there are
                assert all(box["width"] % 64 == 0 for box in row)
        rendering = "return getComputedStyle(arguments[0]).imageRendering"
        assert page.browser.execute_script(rendering, page.one("#grid td img")) == "pixelated"


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_evaluations_fit_the_screen(page, size, tmp_path):
    pair = page.settle("plain", task="edit"), page.settle("bold", task="edit")
    with window(page.browser, size):
        page.sign_in()
        page.choose(*pair)
        shoot(page.browser, tmp_path / "list.png")
        assert page.fits()
        page.one("#beside").click()
        page.wait(lambda: len(page.all("#evaluation .grid img")) == 18)
        shoot(page.browser, tmp_path / "beside.png")
        assert page.fits()
        for row in boxes_by_row(page, "#evaluation .grid tbody tr", "img"):
            assert len(row) == 3 and len({box["top"] for box in row}) == 1
            assert row[2]["right"] > 0.9 * size[0]
        page.evaluate("plain", "edit")
        shoot(page.browser, tmp_path / "one.png")
        assert page.fits()


def test_a_store_without_students_says_how_to_get_one(page, tmp_path):
    script = page.browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": NO_STUDENTS}
    )
    try:
        for size in (DESKTOP, PHONE):
            with window(page.browser, size):
                page.sign_in()
                hint = page.one("#no-students")
                assert hint.is_displayed() and page.fits()
                assert "flash-ray distill RECIPE --store STORE" in hint.text
                shoot(page.browser, tmp_path / f"empty-{size[0]}.png")
    finally:
        page.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    page.sign_in()
    assert not page.one("#no-students").is_displayed()


def test_the_buttons_of_a_message_stand_beside_each_other_on_a_phone(page, tmp_path):
    with window(page.browser, PHONE):
        page.sign_in()
        page.browser.execute_script("window.fetch = () => Promise.reject(new TypeError('gone'))")
        page.one("#generate").click()
        page.wait(lambda: page.all("#alerts button"))
        shoot(page.browser, tmp_path / "alert.png")
        retry, dismiss = (page.box(button) for button in page.all("#alerts button"))
        text = page.box(page.one("#alerts p"))
        assert retry["top"] == dismiss["top"] >= text["bottom"]
        assert 0 < dismiss["left"] - retry["right"] < 20 and retry["left"] == text["left"]


@pytest.mark.parametrize(("size", "longest"), [(DESKTOP, 5000), (PHONE, 6000)])
def test_a_report_is_short_and_its_pictures_are_in_line(browser, size, longest, tmp_path):
    file = tmp_path / "report.html"
    write_page(noise_comparisons(per_category=4), file)
    with window(browser, size):
        browser.get(file.as_uri())
        shoot(browser, tmp_path / "report.png")
        html = "document.documentElement"
        assert browser.execute_script(f"return {html}.scrollHeight") < longest
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.execute_script(f"return {html}.scrollWidth <= innerWidth")
        tops = browser.execute_script(
            "return [...document.querySelectorAll('.case')].map(row =>"
            " [...row.querySelectorAll('img')].map(image => image.getBoundingClientRect().top))"
        )
        assert len(tops) == 4 * 9 and all(len(set(row)) == 1 for row in tops)
        assert {len(row) for row in tops} == {3, 4}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_table_of_a_report_that_is_too_wide_shows_that_it_goes_on(browser, tmp_path):
    """A shadow at the edge that the table goes on behind, and none at the other one."""
    file = tmp_path / "report.html"
    page = write_page(noise_comparisons(), file)
    name = "untrained_with_a_very_long_name"
    file.write_text(page.replace("<th>untrained", f"<th>{name}", 2))
    with window(browser, PHONE):
        browser.get(file.as_uri())
        box = browser.find_elements(By.CSS_SELECTOR, ".scroll")[1]
        wide = "return arguments[0].scrollWidth > arguments[0].clientWidth"
        assert browser.execute_script(wide, box)

        def darkness(script):
            """Of the left and the right edge of the box, as it is painted."""
            browser.execute_script(script, box)
            picture = tmp_path / "table.png"
            box.screenshot(str(picture))
            with Image.open(picture) as image:
                edges = [(1, 3), (image.width - 2, 3)]  # above the text
                return [255 - image.convert("L").getpixel(edge) for edge in edges]

        left, right = darkness("arguments[0].scrollLeft = 0")
        assert left < 20 < right
        left, right = darkness("arguments[0].scrollLeft = 9999")
        assert right < 20 < left
