"""The report and the grid: self-contained, every model and category in them."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flash_ray.evaluation.compare import Answers, Comparison, differences, model_result
from flash_ray.evaluation.figures import save_grid, spread
from flash_ray.evaluation.report import curve, log_curves, write_report
from flash_ray.evaluation.sample import Way
from flash_ray.evaluation.scores import BenchScore, CategoryScore
from flash_ray.miniature.benchmark import BENCHES, cases, source_image
from flash_ray.miniature.judge import Verdict
from flash_ray.recipe import load_recipe

MODELS = ("teacher", "teacher_at_4", "student")


@pytest.fixture(scope="module")
def comparisons():
    """Answers that are noise, with scores that were not judged."""
    rng = np.random.default_rng(0)
    return {bench: _contest(cases(bench, 2), rng) for bench in BENCHES}


def _contest(asked, rng):
    answers = {}
    for number, name in enumerate(MODELS):
        pictures = rng.integers(0, 256, (len(asked), 64, 64, 3)).astype(np.uint8)
        verdicts = {
            case.id: Verdict(0.5, 0.5, 3.0 + number, {"sky": 0.0, "ground": 1.0}, None, None)
            for case in asked
        }
        shown = {"tint": {"distance": 0.2, "floor": 0.1}}
        if name != "student":  # its pictures do not show every factor
            shown["horizon"] = {"distance": 0.3, "floor": 0.1}
        category = CategoryScore(2, 3.0 + number, 0.5, 0.5, shown, 0.1)
        score = BenchScore(
            3.0 + number,
            (2.9, 3.1),
            0.5,
            0.5,
            {case.category: category for case in asked},
            verdicts,
        )
        way = Way(f"{name}'s way <b>", None, [1.0] * (4 if number else 80))
        answers[name] = Answers(way, pictures, score)
    return Comparison(asked, answers)


@pytest.fixture(scope="module")
def page(comparisons, tmp_path_factory):
    recipe = load_recipe("miniature")
    result = {
        **{name: model_result(comparisons, name) for name in MODELS},
        "student_and_teacher": differences(comparisons, "student", "teacher"),
        "student_and_teacher_at_4": differences(comparisons, "student", "teacher_at_4"),
        "cases_per_category": 2,
        "seconds": {"train": 1.0, "evaluate": 2.0, "total": 3.0},
        "published": "s3://flash-ray/students/miniature",
        "recipe_digest": recipe.digest,
    }
    measures = {"dmd_gradient": 1.0, "fake_loss": 0.5, "memory_mib": 100.0}
    history = [{"update": n, "measures": {**measures, "fake_loss": 1 / n}} for n in (1, 2, 3)]
    history[1]["bench"] = {"t2i": 3.0, "edit": 2.0}
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(file, recipe, result, comparisons, history)
    return file.read_text()


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
    assert (picture == comparisons["t2i"].answers["student"].pictures_BHW3[index]).all()
    assert "input, style-000" in shown


def test_page_states_scores_ways_curves_and_recipe(page):
    recipe = load_recipe("miniature")
    assert page.count(recipe.digest) == 2
    assert "student&#39;s way &lt;b&gt;" in page
    assert "<b>166.7 %</b>" in page and "<b>+1.00</b>" in page
    assert page.count("<svg") == 3  # two measures and memory; one bench score draws no curve
    assert "not: sky" in page and "not: ground" not in page
    assert "iterations: 250" in page


def test_curve_spans_its_chart():
    chart = curve("a < b", [(1, 2.0), (2, 4.0), (3, 3.0)])
    assert "a &lt; b" in chart
    points = re.search(r'points="([^"]+)"', chart)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[1] < heights[2] < heights[0]
    assert ">4</text>" in chart and ">2</text>" in chart


def test_measures_with_too_few_rows_have_no_curve():
    rows = [{"update": 1, "a": 1.0, "b": 1.0}, {"update": 2, "a": 2.0}]
    assert len(log_curves(rows, {"a": "A", "b": "B", "c": "C"})) == 1


def test_grid_shows_inputs_and_answers_at_twice_the_size(comparisons, tmp_path):
    file = tmp_path / "grid.png"
    save_grid(list(comparisons.values()), file)
    grid = np.asarray(Image.open(file).convert("RGB"))
    assert grid.shape[1] > (3 + 4) * 128
    edit = comparisons["edit"]
    for picture in (
        np.asarray(source_image(edit.cases[0])),
        edit.answers["student"].pictures_BHW3[0],
        comparisons["t2i"].answers["teacher"].pictures_BHW3[0],
    ):
        assert _contains(grid, picture.repeat(2, 0).repeat(2, 1))


def _contains(sheet, picture) -> bool:
    height, width = picture.shape[:2]
    corners = np.argwhere((sheet[: -height + 1, : -width + 1] == picture[0, 0]).all(-1))
    return any((sheet[y : y + height, x : x + width] == picture).all() for y, x in corners)


def test_nobody_picks_the_cases(comparisons):
    shown = [comparisons["edit"].cases[i].id for i in spread(comparisons["edit"], 1)]
    assert shown == [f"{category}-000" for category in BENCHES["edit"]]


def test_a_factor_that_a_models_pictures_do_not_show_has_no_distance(page):
    row = re.search(r'<td>horizon<td class="n soft">\S+\s*((?:<td class="n">[^<\s]+)+)', page)
    assert re.findall(r">([^<>]+)", row.group(1)) == ["0.30", "0.30", "–"]
