"""The report and the grid: self-contained, every model and category in them."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.report import curve, history_curves, save_grid
from flash_ray.recipe import load_recipe
from tests.helpers.reports import BENCHMARK, metrics, noise_comparisons, write_page


@pytest.fixture(scope="module")
def comparisons():
    return noise_comparisons()


@pytest.fixture(scope="module")
def page(comparisons, tmp_path_factory):
    return write_page(comparisons, tmp_path_factory.mktemp("report") / "report.html")


class _Balanced(HTMLParser):
    """Fails on a closing tag without its opening one; collects what the page would load."""

    OPTIONAL = {"td", "th", "tr", "li", "p", "meta", "img", "br", "html"}

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in self.OPTIONAL and tag != "path" and tag != "polyline":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.OPTIONAL and tag not in ("path", "polyline"):
            assert self.open.pop() == tag


def test_page_is_whole_and_loads_nothing(page):
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads and all(v.startswith("data:image/png;base64,") for v in parser.loads)
    assert "<script" not in page and "http" not in page


def test_pictures_are_the_answers(page, comparisons):
    found = re.findall(r'alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    edits, scenes = len(comparisons["edit"].cases), len(comparisons["t2i"].cases)
    assert len(found) == 4 * edits + 3 * scenes
    shown = {alt: base64.b64decode(data) for alt, data in found}
    picture = np.asarray(Image.open(io.BytesIO(shown["student, portrait-001"])))
    index = [case.id for case in comparisons["t2i"].cases].index("portrait-001")
    assert (picture == comparisons["t2i"].answers["student"].images[index]).all()
    assert "input, style-000" in shown


def test_page_states_scores_samplers_curves_and_recipe(page):
    recipe = load_recipe("miniature")
    assert page.count(recipe.digest) == 3
    assert "miniature: 4 evaluations instead of 80" in page
    assert "40 guided steps, 80 evaluations" in page and "exact" in page
    assert "compliance / quality" in page and "0.50 / 0.25" in page
    assert page.count("<svg") == 6  # the measures of a run; one score of each task draws no curve
    assert "iterations: 250" in page


def test_scores_that_begin_at_1_are_compared_by_their_difference(page):
    assert "<b>+2.00</b> [+2.00, +2.00] against\nthe teacher" in page
    assert "<b>+1.00</b> [+1.00, +1.00] against the untrained base" in page
    text = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    # From the beginning of a word: elsewhere in a picture's base64 it would take seconds.
    assert re.findall(r"(?<!\S)\S+ %", text) == ["95 %"]  # what the intervals are of


def test_what_does_not_hold_is_said_in_words(page):
    assert page.count("Wrong: sky, number of objects (half right).") == 3 * len(
        BENCHMARK.cases("t2i", 2)
    )
    assert "Not changed as asked: color of the left object. Not kept: what is worn." in re.sub(
        r"</span> <span[^>]*>", " ", page
    )
    assert not re.search(r"colour|no_other|(Wrong|kept|asked): [^<]*ground", page)


def test_each_category_has_its_pictures_in_a_part_that_opens(page):
    parts = re.findall(r"<details( open)?><summary><b>(.*?)</b>", page)
    names = [name for categories in BENCHMARK.categories.values() for name in categories]
    assert [name for _, name in parts] == names
    firsts = [categories[0] for categories in BENCHMARK.categories.values()]
    assert [name for is_open, name in parts if is_open] == firsts


def test_one_task_and_a_judge_without_more_to_say_make_a_whole_page(comparisons, tmp_path):
    """No measures, no diversity, cases without scores: their columns and sections are not there."""
    few = comparisons["t2i"]
    answers = {}
    for name, own in few.answers.items():
        rows = {
            c: r.model_copy(update={"measures": {}, "details": {}, "score": None})
            for c, r in own.result.categories.items()
        }
        cases = {case.id: CaseScore(score=None, failure="refused") for case in few.cases}
        changes = {"score": None, "interval": None, "measures": {}}
        result = own.result.model_copy(update={**changes, "categories": rows, "cases": cases})
        answers[name] = replace(own, result=result)
    page = write_page({"t2i": replace(few, answers=answers)}, tmp_path / "report.html")
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert "Diversity" not in page and "compliance" not in page and "editing" not in page
    assert "the student scores" not in page
    assert "No score: the judge refused to answer." in page
    assert "None" not in page


def test_curve_spans_its_chart():
    chart = curve("a < b", [(1, 2.0), (2, 4.0), (3, 3.0)])
    assert "a &lt; b" in chart
    points = re.search(r'points="([^"]+)"', chart)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[1] < heights[2] < heights[0]
    assert ">4</text>" in chart and ">2</text>" in chart


def test_measures_with_too_few_iterations_have_no_curve():
    once = history_curves([metrics(1), metrics(2, scores={"t2i": 3.0})])
    assert not any("text to image" in chart for chart in once)
    twice = history_curves([metrics(n, scores={"t2i": 3.0}) for n in (1, 2)])
    assert len(twice) == len(once) + 1 and any("text to image" in chart for chart in twice)
    assert history_curves([metrics(1)]) == []


def test_grid_shows_inputs_and_answers_at_twice_the_size(comparisons, tmp_path):
    file = tmp_path / "grid.png"
    save_grid(list(comparisons.values()), file)
    grid = np.asarray(Image.open(file).convert("RGB"))
    assert grid.shape[1] > (3 + 4) * 128
    edit = comparisons["edit"]
    for picture in (
        np.asarray(edit.cases[0].references[0]),
        edit.answers["student"].images[0],
        comparisons["t2i"].answers["teacher"].images[0],
    ):
        assert _contains(grid, picture.repeat(2, 0).repeat(2, 1))


def test_large_pictures_are_shrunk_in_their_own_aspect_ratio(comparisons, tmp_path):
    """Two inputs of different shapes, of which the first case has one."""
    edit = comparisons["edit"]
    wide = Image.new("RGB", (1024, 512), "red")
    cases = [edit.cases[0], replace(edit.cases[1], references=[wide, wide])]
    save_grid([replace(edit, cases=cases)], tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    red = (grid == (255, 0, 0)).all(-1)
    assert red.any(1).sum() == 128 and red.any(0).sum() == 2 * 256
    assert grid.shape[1] < 6 * 270


def _contains(sheet, picture) -> bool:
    height, width = picture.shape[:2]
    corners = np.argwhere((sheet[: -height + 1, : -width + 1] == picture[0, 0]).all(-1))
    return any((sheet[y : y + height, x : x + width] == picture).all() for y, x in corners)


def test_a_factor_that_a_models_pictures_do_not_show_has_no_distance(page):
    row = re.search(r'<td>horizon<td class="soft">[^<]+((?:<td>[^<\s]+)+)', page)
    assert re.findall(r">([^<>]+)", row.group(1)) == ["0.30", "0.30", "–"]
