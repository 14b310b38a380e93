"""Scenes, pictures, captions, edits and the benchmark of the miniature world."""

import hashlib
import json

import numpy as np
import pytest

from flash_ray.miniature.benchmark import (
    MiniatureBenchmark,
    draw_edit,
    draw_scene,
    is_reserved,
)
from flash_ray.miniature.captions import caption, careless, corpus, instruction
from flash_ray.miniature.draw import draw
from flash_ray.miniature.edits import DEGRADATIONS, degrade, random_edit
from flash_ray.miniature.scenes import (
    EDIT_CATEGORIES,
    FACTORS,
    SLOTS,
    STYLES,
    T2I_CATEGORIES,
    random_scene,
)


def _edits(category, count=40, seed=7):
    rng = np.random.default_rng(seed)
    return [random_edit(category, rng) for _ in range(count)]


@pytest.mark.parametrize("category", T2I_CATEGORIES)
def test_scenes_obey_the_rules_of_the_world(category):
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = random_scene(category, rng)
        assert scene.value("style") == "none"
        for factor in FACTORS[category]:
            value = scene.factors[factor.name]
            assert 0 <= value < (len(factor.values) if factor.stated else 1)
        if category == "landscape":
            assert 1 <= len(scene.objects) <= 3
        if category == "text":
            assert scene.value("ink") != scene.value("board")


def test_a_seed_fixes_scenes_edits_captions_and_cases():
    def made():
        rng = np.random.default_rng(2)
        edits = [random_edit(category, rng) for category in EDIT_CATEGORIES]
        words = [instruction(edit, rng) for edit in edits]
        return edits, words, [caption(random_scene(c, rng), rng) for c in T2I_CATEGORIES]

    assert made() == made()
    assert list(corpus(12, seed=3)) == list(corpus(12, seed=3))
    benchmark = MiniatureBenchmark()
    for task in benchmark.categories:
        assert benchmark.cases(task, 3) == benchmark.cases(task, 3)


def _shows(scene):
    """Every factor of the scene made visible."""
    changes = {"style": STYLES.index("tiled")}
    if scene.category == "landscape":
        changes |= {slot: 2 for slot in SLOTS} | {"sky": 0}
    if scene.category == "text":
        changes |= {"pattern": 1}
    return scene.with_(**changes)


@pytest.mark.parametrize("category", T2I_CATEGORIES)
def test_every_factor_changes_the_picture(category):
    scene = _shows(random_scene(category, np.random.default_rng(4)))
    picture = draw([scene])[0]
    assert picture.shape == (3, 64, 64) and picture.dtype == np.float32
    assert 0 <= picture.min() and picture.max() <= 1
    for factor in FACTORS[category]:
        now = scene.factors[factor.name]
        others = range(len(factor.values)) if factor.stated else [(now + 0.4) % 1]
        for other in others:
            if other != now:
                changed = np.abs(draw([scene.with_(**{factor.name: other})])[0] - picture)
                assert changed.max() > 0.02, factor.name


def test_a_batch_is_drawn_as_its_scenes_are_one_by_one():
    rng = np.random.default_rng(5)
    scenes = [random_scene(T2I_CATEGORIES[i % 3], rng).with_(style=i % 5) for i in range(15)]
    alone = np.concatenate([draw([scene]) for scene in scenes])
    np.testing.assert_allclose(draw(scenes), alone, atol=1e-6)


def test_captions_state_everything_unless_told_to_omit():
    rng = np.random.default_rng(6)
    for category in T2I_CATEGORIES:
        for _ in range(20):
            scene = random_scene(category, rng)
            text = caption(scene, rng)
            if category == "landscape":
                assert f"a {scene.value('sky')} sky over {scene.value('ground')}" in text
                assert all(f"a {color} {kind}" in text for color, kind in scene.objects)
            elif category == "portrait":
                assert f"{scene.value('hair')} {scene.value('hair_colour')} hair" in text
                assert f"a {scene.value('shirt')} shirt" in text
                assert f"a {scene.value('backdrop')} wall" in text
            else:
                assert f"the word {scene.word} in {scene.value('ink')} letters" in text
                assert f"{scene.value('board')} board" in text
            assert len(caption(scene, rng, omitted=1.0)) < len(text)


def test_careless_writers_are_wrong_as_often_as_said_and_overlook_no_object():
    rng = np.random.default_rng(7)
    wrong = total = 0
    for index in range(900):
        scene = random_scene(T2I_CATEGORIES[index % 3], rng)
        seen = careless(scene, rng, 0.3)
        for factor in FACTORS[scene.category]:
            if not factor.stated or factor.name == "style":
                assert seen.factors[factor.name] == scene.factors[factor.name]
            elif factor.name in SLOTS:
                assert bool(seen.factors[factor.name]) == bool(scene.factors[factor.name])
            else:
                wrong += seen.factors[factor.name] != scene.factors[factor.name]
                total += 1
    assert wrong / total == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_edits_keep_what_they_say_and_change_what_they_say(category):
    for edit in _edits(category):
        assert not set(edit.changed) & set(edit.kept)
        for name in edit.kept:
            assert edit.target.factors[name] == edit.source.factors[name]
        values = [edit.target.factors[n] != edit.source.factors[n] for n in edit.changed]
        assert any(values) or category == "enhancement" or edit.operation[0] == "add"
        gap = np.abs(edit.target_picture() - edit.source_picture())
        assert gap.max() > 0.1


@pytest.mark.parametrize("category", EDIT_CATEGORIES)
def test_an_instruction_names_the_targets_values(category):
    rng = np.random.default_rng(8)
    for edit in _edits(category):
        text = instruction(edit, rng)
        what, which = edit.operation
        target = edit.target
        if what == "restore":
            assert which in text
        elif what == "write":
            assert text.endswith(target.word)
        elif what == "add":
            assert f"{target.value(f'{which}_colour')} {target.value(which)}" in text
        elif what == "remove":
            assert f"{edit.source.value(f'{which}_colour')} {edit.source.value(which)}" in text
        elif what == "recolour":
            assert text.endswith(target.value(f"{which}_colour"))
        else:
            stem = target.value(which)[:4]  # "stri" of stripes and striped
            assert stem in text or (
                which in ("mouth", "pattern") and text.split()[-1][:3] == stem[:3]
            )


def test_a_careless_instruction_is_sometimes_wrong():
    rng = np.random.default_rng(9)
    edits = [edit for edit in _edits("text", 300) if edit.operation == ("set", "ink")]
    wrong = sum(edit.target.value("ink") not in instruction(edit, rng, 0.3) for edit in edits)
    assert wrong / len(edits) == pytest.approx(0.3, abs=0.1)


def test_a_careless_writer_names_wrong_objects_and_places_to_remove():
    rng = np.random.default_rng(11)
    edits = [e for e in (random_edit("object", rng) for _ in range(600)) if "remove" in e.operation]
    said = [(instruction(edit, rng), instruction(edit, rng, 0.3)) for edit in edits]
    color, kind, place = (
        np.mean([exact.split()[part] != loose.split()[part] for exact, loose in said])
        for part in (2, 3, -1)
    )
    assert 0.2 < min(color, kind, place) and max(color, kind, place) < 0.4


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_degradations_spoil_and_their_seed_fixes_them(kind):
    picture = draw([random_scene("portrait", np.random.default_rng(10))])[0]
    spoiled = degrade(picture, kind, seed=1)
    np.testing.assert_array_equal(spoiled, degrade(picture, kind, seed=1))
    assert np.sqrt(np.square(spoiled - picture).mean()) > 0.03
    assert spoiled.dtype == np.float32 and spoiled.min() >= 0 and spoiled.max() <= 1


def test_an_unknown_degradation_is_refused():
    with pytest.raises(ValueError, match="allowed are blurred"):
        degrade(np.zeros((3, 64, 64), np.float32), "torn", seed=1)


def test_training_never_draws_what_is_reserved_for_the_benchmark():
    rng = np.random.default_rng(11)
    for category in T2I_CATEGORIES:
        assert not any(is_reserved(draw_scene(category, rng)) for _ in range(100))
    for category in EDIT_CATEGORIES:
        assert not any(is_reserved(draw_edit(category, rng).target) for _ in range(30))
    for case in MiniatureBenchmark().cases("t2i", 5):
        assert is_reserved(case.target)
    for case in MiniatureBenchmark().cases("edit", 5):
        assert is_reserved(case.target.target)


def test_what_is_reserved_depends_on_words_alone():
    scene = random_scene("landscape", np.random.default_rng(12))
    other = scene.with_(horizon=0.1, light=0.2, left_x=0.3)
    assert is_reserved(scene) == is_reserved(other)
    rng = np.random.default_rng(13)
    share = np.mean([is_reserved(random_scene("text", rng)) for _ in range(3000)])
    assert share == pytest.approx(1 / 16, abs=0.015)


def test_a_longer_list_of_cases_begins_as_a_shorter_one():
    benchmark = MiniatureBenchmark()
    for task, categories in benchmark.categories.items():
        cases = benchmark.cases(task, 4)
        assert [case.id for case in cases] == [f"{c}-{i:03d}" for c in categories for i in range(4)]
        shorter = [case for case in cases if case.id.endswith(("-000", "-001"))]
        assert shorter == benchmark.cases(task, 2)


@pytest.mark.parametrize(
    ("task", "digest"), [("t2i", "33f0eb7ece7f6c8d"), ("edit", "5eb87d2a4661deab")]
)
def test_the_cases_are_those_that_published_scores_were_measured_on(task, digest):
    """Whoever changes a prompt, a seed or an input has to change the benchmark's digest too."""
    rows = [
        [case.id, case.prompt, case.seed, *(_digest(image) for image in case.references)]
        for case in MiniatureBenchmark().cases(task, 3)
    ]
    if task == "t2i":
        rows = [[*row, None] for row in rows]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == digest
    assert MiniatureBenchmark().digest == "a3291b13ef54d838"


def test_the_input_of_an_edit_is_its_source():
    case = MiniatureBenchmark().cases("edit", 1)[0]
    (image,) = case.references
    pixels = np.round(case.target.source_picture().transpose(1, 2, 0) * 255).astype(np.uint8)
    assert (np.asarray(image) == pixels).all()
    assert len(case.references) == 1 and list(case.references[:1]) == [image]
    with pytest.raises(IndexError):
        case.references[1]


def _digest(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:16]
