"""The report and the grid: self-contained, every model and category in them."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flash_ray.evaluation.compare import Answers, Comparison, differences
from flash_ray.evaluation.judges.base import CaseScore, CategoryScore, JudgeResult
from flash_ray.evaluation.report import curve, history_curves, save_grid, write_report
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import load_recipe
from flash_ray.trainer.metrics import UpdateMetrics

MODELS = ("teacher", "untrained", "student")
BENCHMARK = MiniatureBenchmark()


@pytest.fixture(scope="module")
def comparisons():
    """Answers that are noise, with scores that were not judged."""
    rng = np.random.default_rng(0)
    return {task: _comparison(task, BENCHMARK.cases(task, 2), rng) for task in BENCHMARK.categories}


def _comparison(task, cases, rng):
    answers = {}
    measures = {"compliance": 0.5, "quality": 0.25}
    for number, name in enumerate(MODELS):
        images = list(rng.integers(0, 256, (len(cases), 64, 64, 3)).astype(np.uint8))
        score = CaseScore(
            score=3.0 + number,
            measures=measures,
            details={"attributes": {"sky": 0.0, "ground": 1.0}, "cap": None},
        )
        shown = {"tint": {"distance": 0.2, "floor": 0.1}}
        if name != "student":  # its pictures do not show every factor
            shown["horizon"] = {"distance": 0.3, "floor": 0.1}
        category = CategoryScore(
            cases=2,
            counted=2,
            score=3.0 + number,
            measures=measures,
            details={"diversity": shown, "diversity_gap": 0.1},
        )
        result = JudgeResult(
            judge="exact",
            score=3.0 + number,
            interval=(2.9, 3.1),
            measures=measures,
            categories={case.category: category for case in cases},
            cases={case.id: score for case in cases},
        )
        sampler = SamplerConfig((1.0,) * (4 if number else 40), 1.0 if number else 2.5)
        answers[name] = Answers(sampler, images, result)
    return Comparison(task, cases, answers)


def result_of(comparisons, recipe):
    """What `workflows.demo` puts into result.json."""
    return {
        "models": {
            name: {task: c.answers[name].to_json() for task, c in comparisons.items()}
            for name in MODELS
        },
        "differences": {
            other: {task: differences(c, "student", other) for task, c in comparisons.items()}
            for other in MODELS[:2]
        },
        "benchmark": "miniature",
        "judge": "exact",
        "cases_per_category": 2,
        "seconds": {"train": 1.0, "evaluate": 2.0, "total": 3.0},
        "published": "s3://flash-ray/students/miniature",
        "recipe_digest": recipe.digest,
    }


def metrics(iteration: int, **changes) -> UpdateMetrics:
    fields = UpdateMetrics(
        iteration=iteration,
        num_workers=1,
        student_loss=1.0,
        fake_score_loss=1 / iteration,
        diagnostics={"dmd_gradient": 1.0},
        spread=1.0,
        excess=1.0,
        student_grad_norm=1.0,
        fake_score_grad_norm=1.0,
        seconds=2.0,
        stages={},
        teacher_wait_share=0.5,
        memory_mib=100.0,
        images=4,
        teacher_calls=8,
        cpu_seconds=1.0,
        tasks={},
        teachers={},
    )
    return replace(fields, **changes)


def write_page(comparisons, file):
    recipe = load_recipe("miniature")
    history = [metrics(1), metrics(2, scores={"t2i": 3.0, "edit": 2.0}), metrics(3)]
    write_report(file, recipe, result_of(comparisons, recipe), comparisons, history)
    return file.read_text()


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
    assert page.count(recipe.digest) == 2
    assert "miniature: 4 evaluations instead of 80" in page
    assert "40 guided steps" in page and "exact" in page
    assert "<b>166.7 %</b>" in page and "<b>+1.00</b>" in page
    assert "compliance / quality" in page and "0.50 / 0.25" in page
    assert page.count("<svg") == 6  # the measures of a run; one score of each task draws no curve
    assert "not: sky" in page and "not: ground" not in page
    assert "iterations: 250" in page


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
    assert "the student reaches" not in page and "refused" in page
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
    row = re.search(r'<td>horizon<td class="n soft">\S+\s*((?:<td class="n">[^<\s]+)+)', page)
    assert re.findall(r">([^<>]+)", row.group(1)) == ["0.30", "0.30", "–"]
