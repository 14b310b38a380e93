"""The small version of a study: its own name, seeds, cases and arms, and what is left."""

import pytest
import yaml

from flash_ray.errors import UserError
from flash_ray.studies.quick import quick_study
from flash_ray.studies.study import load_study, plan_trials, shipped

ARMS = {
    "half": {"tasks": {"t2i": 1, "edit": 1}},
    "most": {"tasks": {"t2i": 7, "edit": 3}},
    "images": {"tasks": {"t2i": 1, "edit": 0}},
}
CLAIM = {"source": "us", "measure": "t2i", "expect": "higher"}
STUDY = {
    "name": "try",
    "recipe": "miniature",
    "budget": {"images": 3200},
    "early": 40,
    "seeds": [0, 1, 2],
    "cases": {"t2i": 50, "edit": 20},
    "arms": ARMS,
    "diversity": {"prompts": 8, "noises": 4},
    "factors": {
        "tasks": {"title": "Tasks", "arms": ["half", "most", "images"]},
        "gone": {"title": "Gone", "arms": ["most", "images"]},
    },
    "claims": [
        {**CLAIM, "text": "kept", "left": ["half"], "right": ["images"]},
        {**CLAIM, "text": "gone", "left": ["half"], "right": ["images", "most"]},
    ],
}
QUICK = {"iterations": 10, "early": 5, "cases": {"t2i": 4, "edit": 2}, "arms": ["half", "images"]}


@pytest.fixture
def load(tmp_path):
    def loaded(quick):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, "quick": quick}))
        return load_study(str(file))

    return loaded


def test_a_quick_study_is_small_and_is_another(load):
    study = load(QUICK)
    quick = quick_study(study)
    assert (quick.name, quick.seeds, quick.early) == ("try-quick", (0,), 5)
    assert list(quick.arms) == ["half", "images"]
    assert quick.factors["tasks"].arms == ("half", "images") and len(quick.factors) == 1
    assert [claim.text for claim in quick.claims] == ["kept"]
    assert (quick.diversity.prompts, quick.diversity.noises) == (2, 4)
    names = [trial.name for trial in plan_trials(quick)]
    assert names == ["try-quick-half-0", "try-quick-images-0"]
    assert not {*names} & {trial.name for trial in plan_trials(study)}
    assert {trial.recipe.training.iterations for trial in plan_trials(quick)} == {10}


@pytest.mark.parametrize(
    ("quick", "says"),
    [
        ({**QUICK, "arms": ["half", "image"]}, "quick.arms: unknown arm 'image'; did you mean im"),
        ({**QUICK, "early": 10}, "quick.early: 10 of 10 iterations; allowed: 1 to below them"),
        ({**QUICK, "arms": ["half"]}, "study: quick.arms: value"),
    ],
)
def test_what_a_quick_study_cannot_be_is_refused_with_the_study(load, quick, says):
    with pytest.raises(UserError) as caught:
        load(quick)
    assert says in str(caught.value)


def test_a_study_without_a_quick_version_says_so(load):
    with pytest.raises(UserError, match="--quick: study try has no quick version; .* add e.g."):
        quick_study(load(None))
    with pytest.raises(UserError, match="--quick: factors.tasks.tasks: unknown task"):
        quick_study(load({**QUICK, "cases": {"edit": 2}}))


@pytest.mark.parametrize("name", shipped())
def test_shipped_quick_studies_can_be_planned(name):
    study = load_study(name)
    assert not study.arms or len(plan_trials(quick_study(study))) >= 4
