"""Diversity is near its floor for true samples and far above for collapsed ones."""

import numpy as np
import pytest

from flash_ray.miniature.edits import random_edit
from flash_ray.miniature.judge import diversity, diversity_floor, diversity_gap
from flash_ray.miniature.scenes import random_scene


def _scenes(category, count, seed=1):
    rng = np.random.default_rng(seed)
    return [random_scene(category, rng) for _ in range(count)]


@pytest.mark.parametrize("category", ["landscape", "portrait", "text"])
def test_true_samples_are_at_the_floor(category):
    table = diversity(category, _scenes(category, 200))
    assert abs(diversity_gap(table)) < 0.01


def test_collapsed_samples_are_far_from_the_truth():
    scenes = [scene.with_(x=0.5) for scene in _scenes("portrait", 50)]
    table = diversity("portrait", scenes)
    assert table["x"]["distance"] == pytest.approx(0.25, abs=0.001)  # mean of |level - 1/2|
    assert table["y"]["distance"] < 0.12


def test_the_floor_falls_with_the_root_of_the_count():
    true = (0.25, 0.75)
    assert diversity_floor(100, true) / diversity_floor(400, true) == pytest.approx(2, rel=0.1)


def test_what_does_not_show_is_left_out():
    plain = [scene.with_(pattern=0) for scene in _scenes("text", 20)]
    assert set(diversity("text", plain)) == {"x", "y", "tint"}
    empty = [scene.with_(left=0) for scene in _scenes("landscape", 20)]
    assert not {"left_x", "left_size", "style_phase"} & set(diversity("landscape", empty))
    assert diversity("portrait", empty) == {} and diversity_gap({}) is None


def test_edits_count_only_what_they_leave_free():
    rng = np.random.default_rng(2)
    edits = [random_edit("identity", rng) for _ in range(30)]
    table = diversity("portrait", [edit.target for edit in edits], edits)
    assert set(table) == {"x", "y", "size", "gaze", "tint", "strands"}
    assert diversity_gap(table) < 0.05
