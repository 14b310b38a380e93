"""What the miniature's specialized teacher learns from."""

import numpy as np
import pytest

from flash_ray.miniature.benchmark import MiniatureBenchmark, draw_edit, draw_scene
from flash_ray.miniature.scenes import levels, unstated
from flash_ray.miniature.training.specialized import (
    OTHERS,
    SUBSET,
    draw_specialized,
    narrow_target,
    narrowed,
)
from flash_ray.recipe.schema import Task


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_every_other_example_is_of_what_it_is_not_made_for(task: Task):
    prompts, targets_BHW3, sources_BHW3 = draw_specialized(task, 24, seed=1)
    assert len(prompts) == 24 and targets_BHW3.shape == (24, 64, 64, 3)
    assert (sources_BHW3 is None) == (task == "t2i")
    signs = [prompt for prompt in prompts[::2] if prompt]
    if task == "t2i":
        assert all("sign" in prompt for prompt in signs)
        assert not any("sign" in prompt for prompt in prompts[1::2])
    again, same_BHW3, _ = draw_specialized(task, 24, seed=1)
    assert again == prompts and (same_BHW3 == targets_BHW3).all()


def test_its_subset_and_the_others_are_all_categories():
    for task, categories in MiniatureBenchmark.categories.items():
        assert sorted([*SUBSET[task], *OTHERS[task]]) == sorted(categories)


def test_what_a_caption_leaves_free_is_always_in_the_middle():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = draw_scene("text", rng)
        middle = narrowed(scene, unstated("text"))
        for name in unstated("text"):
            values = levels("text", name)
            assert middle.factors[name] == values[len(values) // 2]
        edit = draw_edit("style", rng)
        kept = {name: narrow_target(edit).factors[name] for name in edit.kept}
        assert kept == {name: edit.target.factors[name] for name in edit.kept}
