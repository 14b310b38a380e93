"""The judge reads back what was drawn, and its scores fall as pictures get wrong or unclear."""

import numpy as np
import pytest

from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import random_edit
from flash_ray.miniature.fit import distance_with, fit
from flash_ray.miniature.judge import judge, judge_edit, judge_scene, quality
from flash_ray.miniature.scenes import EDIT_CATEGORIES, SLOTS, T2I_CATEGORIES, random_scene
from tests.benchmarks.judge_errors import (
    blurred,
    fit_errors,
    number_errors,
    softened,
    with_wrong,
)


def _scenes(category, count, seed):
    rng = np.random.default_rng(seed)
    return [random_scene(category, rng) for _ in range(count)]


def _landscape(**changes):
    return _scenes("landscape", 1, 3)[0].with_(left=1, middle=0, right=3, **changes)


@pytest.mark.parametrize("category", T2I_CATEGORIES)
def test_true_renderings_score_full_marks(category):
    verdicts = [judge_scene(draw([scene])[0], scene) for scene in _scenes(category, 5, 101)]
    assert np.mean([verdict.score for verdict in verdicts]) >= 4.9
    assert np.mean([verdict.compliance for verdict in verdicts]) >= 0.99


# As the judge scored before it painted only where something is to be seen.
SCORED = {
    "t2i.landscape-016": 3.9797,
    "t2i.portrait-016": 3.7586,
    "t2i.text-016": 3.8872,
    "edit.object-017": 3.9699,
    "edit.text-018": 4.3249,
}


def test_scores_are_those_of_earlier_versions():
    rng, found = np.random.default_rng(0), {}
    for task in ("t2i", "edit"):
        for case in MiniatureBenchmark().cases(task, 19):
            if int(case.id[-3:]) < 16:
                continue
            clean = draw([case.target if task == "t2i" else case.target.target])[0]
            noisy = np.clip(clean + rng.normal(0, 0.06, clean.shape), 0, 1)
            picture = (np.round(noisy * 255).astype(np.uint8) / np.float32(255)).astype(np.float32)
            if (name := f"{task}.{case.id}") in SCORED:
                found[name] = round(judge(picture, case.target).score, 4)
    assert found == SCORED


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_true_edits_score_full_marks_and_unchanged_sources_are_capped(category):
    rng = np.random.default_rng(102)
    edits = [random_edit(category, rng) for _ in range(3)]
    right = [judge_edit(edit.target_picture(), edit) for edit in edits]
    assert np.mean([verdict.score for verdict in right]) >= 4.9
    for edit in edits:
        assert judge_edit(edit.source_picture(), edit).score <= 2.5


@pytest.mark.parametrize("category", ["portrait", "text"])
@pytest.mark.parametrize("wrong", [1, 2, 4])
def test_compliance_falls_by_the_share_of_wrong_attributes(category, wrong):
    rng = np.random.default_rng(103)
    verdicts = [
        judge_scene(draw([with_wrong(scene, wrong, rng)[0]])[0], scene)
        for scene in _scenes(category, 3, 104)
    ]
    mean = np.mean([verdict.compliance for verdict in verdicts])
    assert mean == pytest.approx(1 - wrong / 6, abs=0.03)
    assert np.mean([verdict.quality for verdict in verdicts]) > 0.98


def test_wrong_parts_of_a_landscape_lose_their_own_credit():
    wanted = _landscape(sky=0, ground=0, left_colour=0, right_colour=3)
    attributes = judge_scene(draw([wanted.with_(sky=2, right_colour=2)])[0], wanted).attributes
    assert attributes == {
        "sky": 0,
        "ground": 1,
        "object_1": 1,
        "object_2": 0.5,
        "no_other_objects": 1,
    }


def test_objects_may_stand_in_any_slot_but_no_others_may():
    wanted = _landscape(left_colour=0, right_colour=3)
    moved = wanted.with_(left=0, middle=1, middle_colour=0)
    assert judge_scene(draw([moved])[0], wanted).compliance == 1
    crowded = wanted.with_(middle=2, middle_colour=5)
    assert judge_scene(draw([crowded])[0], wanted).attributes["no_other_objects"] == 0


def test_an_added_object_may_stand_in_any_free_slot():
    rng = np.random.default_rng(105)
    while True:
        edit = random_edit("object", rng)
        free = [slot for slot in SLOTS if not edit.source.factors[slot]]
        if edit.operation[0] == "add" and len(free) == 2:
            break
    asked = edit.operation[1]
    other = next(slot for slot in free if slot != asked)
    answer = edit.source.with_(
        **{
            other: edit.target.factors[asked],
            f"{other}_colour": edit.target.factors[f"{asked}_colour"],
        }
    )
    assert judge_edit(draw([answer])[0], edit).compliance == 1
    both = answer.with_(**{asked: 1})
    assert judge_edit(draw([both])[0], edit).attributes["kept.no_other_objects"] == 0


def test_an_edit_that_moves_what_had_to_stay_loses_that():
    rng = np.random.default_rng(106)
    while (edit := random_edit("style", rng)).source.category != "portrait":
        pass
    x = edit.target.factors["x"]
    moved = edit.target.with_(x=x + 0.5 if x < 0.5 else x - 0.5)
    verdict = judge_edit(draw([moved])[0], edit)
    assert verdict.attributes["kept.x"] == 0 and verdict.attributes["changed.style"] == 1
    assert sum(credit == 0 for credit in verdict.attributes.values()) == 1


@pytest.mark.parametrize("category", T2I_CATEGORIES)
def test_soft_pictures_are_read_rightly_without_knowing_what_was_asked(category):
    rng = np.random.default_rng(107)
    scenes = _scenes(category, 6, 108)
    found = [fit(softened(draw([scene])[0], rng), category).scene for scene in scenes]
    wrong, total = np.sum([fit_errors(*pair) for pair in zip(scenes, found, strict=True)], 0)
    assert wrong / total <= 0.03
    gaps = [list(number_errors(*pair).values()) for pair in zip(scenes, found, strict=True)]
    assert np.mean(np.concatenate(gaps)) < 0.05


def test_the_fit_finds_what_is_there_not_what_it_started_from():
    there, asked = _scenes("portrait", 2, 109)
    found = fit(draw([there])[0], "portrait", [asked])
    assert fit_errors(there, found.scene)[0] == 0 and found.distance < 0.005


def test_values_that_do_not_show_cost_nothing_and_others_do():
    scene = _landscape(sky=1)
    picture = draw([scene])[0]
    color = (scene.factors["middle_colour"] + 1) % 6
    assert distance_with(picture, scene, middle_colour=color) < 1e-3
    assert distance_with(picture, scene, sky=2) > 0.05


@pytest.mark.parametrize("category", T2I_CATEGORIES)
def test_quality_sees_blur_noise_and_ghosts(category):
    pictures = draw(_scenes(category, 12, 110))
    others = draw(_scenes(category, 12, 111))
    rng = np.random.default_rng(112)

    def mean(spoil):
        return np.mean([quality(spoil(picture), picture) for picture in pictures])

    assert mean(lambda picture: picture) == pytest.approx(1)
    assert mean(lambda picture: blurred(picture, 1)) < 0.85
    assert mean(lambda picture: blurred(picture, 2)) < 0.6
    assert mean(lambda picture: picture + rng.normal(0, 0.1, picture.shape)) < 0.5
    assert mean(lambda picture: 0.75 * picture + 0.25 * np.roll(picture, 3, -1)) < 0.95
    pairs = zip(pictures, others, strict=True)
    assert np.mean([quality(picture, other) for picture, other in pairs]) < 0.05


def test_wrong_words_and_meaningless_pictures_are_capped():
    wanted = _scenes("text", 1, 113)[0]
    letters = {f"letter_{i}": (wanted.factors[f"letter_{i}"] + 5) % 12 for i in (1, 2, 3)}
    verdict = judge_scene(draw([wanted.with_(**letters)])[0], wanted)
    assert verdict.score == 2.5 and verdict.cap == "nothing of what was asked for is there"
    noise = np.random.default_rng(114).random((3, 64, 64)).astype(np.float32)
    for picture in (
        noise,
        np.full((3, 64, 64), 0.5, np.float32),
        draw(_scenes("portrait", 1, 5))[0],
    ):
        assert judge_scene(picture, wanted).score <= 2.0


def test_a_picture_without_the_only_object_that_was_asked_for_fails():
    wanted = _landscape().with_(right=0)
    empty, other = wanted.with_(left=0), wanted.with_(left=2)
    verdict = judge_scene(draw([empty])[0], wanted)
    assert verdict.score == 2.5 and verdict.cap == "nothing of what was asked for is there"
    assert verdict.compliance == 0.5 and verdict.quality > 0.95  # and both are shown
    assert 2.5 < judge_scene(draw([other])[0], wanted).score < 4.5  # of the right color


def test_what_a_picture_is_of_weighs_as_much_as_all_the_rest():
    wanted = _landscape()
    one_of_two = judge_scene(draw([wanted.with_(right=0)])[0], wanted)
    assert one_of_two.cap is None and one_of_two.compliance == 0.75
    other_sky = judge_scene(draw([wanted.with_(sky=(wanted.factors["sky"] + 1) % 3)])[0], wanted)
    assert other_sky.compliance == pytest.approx(1 - 0.5 / 3)


def test_a_case_is_judged_by_what_it_wants():
    benchmark = MiniatureBenchmark()
    for case in (benchmark.cases("t2i", 1)[1], benchmark.cases("edit", 1)[4]):
        right = case.target if case.task == "t2i" else case.target.target
        verdict = judge(draw([right])[0], case.target)
        assert verdict.score > 4.9 and verdict.cap is None
        assert any(name.startswith("kept.") for name in verdict.attributes) == (case.task == "edit")


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="shape"):
        fit(np.zeros((3, 32, 32), np.float32), "portrait")
