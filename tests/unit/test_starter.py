"""What the shipped benchmark is made of: prompts and edits that no model is tied to."""

import pytest
from rapidfuzz import fuzz, process

from flash_ray.data.alike import alike, plain
from flash_ray.evaluation.benchmark import Case, listed_cases, load_benchmark
from flash_ray.evaluation.describe import describe_benchmark
from flash_ray.evaluation.inputs import drawn_cases
from flash_ray.evaluation.judges.vlm import rubric
from flash_ray.recipe import load_recipe

RECIPE = load_recipe("miniature")
EDITS = ("enhancement", "identity", "object", "scene", "style", "text")


@pytest.fixture(scope="module")
def starter():
    return load_benchmark("starter", RECIPE)


def is_chinese(text: str) -> bool:
    return text[0] >= "一"


def has_text(case: Case) -> bool:
    """Whether what is to be read stands in the prompt."""
    assert case.text
    return all(word.strip(".,:!") in case.prompt for word in case.text.split())


def test_it_has_120_different_prompts_to_draw(starter):
    cases = listed_cases(starter, "t2i")
    assert starter.categories["t2i"] == ("landscape", "portrait", "text-centric")
    assert len(cases) == 120 and {case.size for case in cases} == {(64, 64)}
    for category in starter.categories["t2i"]:
        of_category = [case.prompt for case in cases if case.category == category]
        assert sum(map(is_chinese, of_category)) == 20 and len(of_category) == 40
    texts = [case for case in cases if case.text]
    assert {case.category for case in texts} == {"text-centric"} and len(texts) == 40
    assert all(map(has_text, texts))
    assert nearest([case.prompt for case in cases]) <= 60
    wide = load_recipe("miniature", ["data.resolution=[64, 96]"])
    assert load_benchmark("starter", wide).cases("t2i", 1)[0].size == (64, 96)


def test_it_has_120_different_edits_each_of_a_picture_of_its_own(starter):
    cases = listed_cases(starter, "edit")
    assert starter.categories["edit"] == EDITS and len(cases) == 120
    assert drawn_cases(starter) == cases
    pictures = [case.references.asked[0] for case in cases]
    for category in EDITS:
        of_category = [case for case in cases if case.category == category]
        assert [is_chinese(case.prompt) for case in of_category] == [False, True] * 10
    for case, picture in zip(cases, pictures, strict=True):
        assert len(case.references) == 1 and is_chinese(case.prompt) == is_chinese(picture.prompt)
    assert nearest([case.prompt for case in cases]) <= 60
    assert nearest([picture.prompt for picture in pictures]) <= 60
    assert len({picture.seed for picture in pictures}) == 120
    # Nobody who trains on common edits trains on these.
    common = ["make it night", "add a cat", "make it a watercolor painting", "把背景换成雪山"]
    assert alike([plain(case.prompt) for case in cases], [plain(edit) for edit in common]) == set()


def test_edits_of_text_say_what_stands_in_the_picture_then_and_not_before(starter):
    cases = [case for case in listed_cases(starter, "edit") if case.category == "text"]
    assert [case for case in listed_cases(starter, "edit") if case.text] == cases
    for case in cases:
        (picture,) = case.references.asked
        written = f"{case.prompt} {picture.prompt}"  # a line that stays is in the picture's prompt
        assert all(word in written for word in case.text.split()), case
        assert any(word not in picture.prompt for word in case.text.split()), case


def test_it_is_described_with_and_without_a_recipe(starter):
    without = describe_benchmark("starter", None)
    assert without.digest is None and without.sizes == {"t2i": {None: 120}, "edit": {None: 120}}
    described = describe_benchmark("starter", RECIPE)
    assert described.digest == starter.digest
    assert described.counts["t2i"] == {"landscape": 40, "portrait": 40, "text-centric": 40}
    assert described.counts["edit"] == dict.fromkeys(EDITS, 20)
    assert described.sizes == {"t2i": {(64, 64): 120}, "edit": {(64, 64): 120}}


def test_a_vlm_has_a_rubric_for_each_of_its_categories(starter):
    for task, categories in starter.categories.items():
        rubrics = {rubric(task, category, {}) for category in (*categories, "any other")}
        assert len(rubrics) == len(categories) + 1


def nearest(prompts: list[str]) -> float:
    """How alike the two nearest of different prompts are, in percent."""
    near = process.cdist(prompts, prompts, scorer=fuzz.ratio)
    near[range(len(prompts)), range(len(prompts))] = 0
    return float(near.max())
