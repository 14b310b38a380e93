"""Searches: which spaces are refused, which combinations they make, what Optuna proposes."""

import json

import pytest
import yaml

from flash_ray.errors import UserError
from flash_ray.studies.space import combinations
from flash_ray.studies.study import load_study, plan_trials
from flash_ray.workflows import study as commands

STUDY = {
    "name": "try",
    "recipe": "miniature",
    "budget": {"iterations": 10},
    "curve_every": 5,
    "seeds": [3],
    "space": {
        "teacher_defaults.guidance_scale": [2.0, 4.0],
        "tasks": [{"t2i": 1, "edit": 0}, {"t2i": 1, "edit": 1}],
    },
}


@pytest.fixture
def file(tmp_path):
    def written(**changes):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
        return str(path)

    return written


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_combination_is_a_recipe_of_its_own(file):
    found = combinations(load_study(file()))
    assert [one.number for one in found] == [0, 1, 2, 3]
    assert [one.choice for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert found[2].values == {
        "teacher_defaults.guidance_scale": 4.0,
        "tasks": {"t2i": 1, "edit": 0},
    }
    recipe = found[2].recipe
    assert (recipe.teacher_defaults.guidance_scale, recipe.tasks.edit) == (4.0, 0)
    assert (recipe.training.iterations, recipe.evaluation.every, recipe.seed) == (10, 5, 3)
    assert len({one.recipe.digest for one in found}) == len({one.recipe.name for one in found}) == 4


def test_a_study_may_have_a_space_without_arms_but_then_no_trials(file):
    study = load_study(file())
    assert "arms: try has none, only a space" in refusal(plan_trials, study)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            {"teacher_defaults.guidence_scale": [1, 2]},
            "space.teacher_defaults.guidence_scale: teacher_defaults.guidence_scale: unknown",
        ),
        (
            {"teacher_defaults.guidance_scale": [2, 0.5]},
            "space.teacher_defaults.guidance_scale: teacher_defaults.guidance_scale: value 0.5",
        ),
        (
            {"teacher_defaults.guidance_scale": [2]},
            "space.teacher_defaults.guidance_scale: value [2]",
        ),
        (
            {"teacher_defaults.guidance_scale": [2, 4, 2.0]},
            "space.teacher_defaults.guidance_scale: 2 and 2.0 make the same recipe",
        ),
        ({"seed": [1, 2]}, "space.seed: 1 and 2 make the same recipe; allowed: values that differ"),
        (
            {"training.optimizer.lr": [1e-4, 1e-5]},
            "space.training.optimizer.lr: changes training, which is fixed; allowed: other "
            "fields; remove that path, or training from fixed",
        ),
        (
            {"tasks": STUDY["space"]["tasks"], "tasks.edit": [0, 1]},
            "space.tasks.edit: part of tasks, which the space has too",
        ),
        (
            {"data.composition.t2i": [{"text": 1}, {"texts": 1}]},
            "unknown category 'texts'; did you mean text?",
        ),
    ],
)
def test_bad_spaces_are_refused_in_one_line(file, space, expected):
    assert expected in refusal(load_study, file(space=space))


def test_what_trials_share_cannot_be_searched(file):
    space = {"training.precision": ["fp32", "bf16"]}
    assert (
        "space.training.precision: changes training.precision, which is fixed; allowed: "
        "other fields; remove that path: trials share teachers and cases"
    ) in refusal(load_study, file(space=space, fixed=[]))


def test_values_that_contradict_each_other_are_refused_together(file):
    space = {"student.steps": [4, 2], "student.sigmas": [None, [1.0, 0.9, 0.7, 0.4]]}
    study = load_study(file(space=space, fixed=[]))
    assert "space: with student.steps=2, student.sigmas=[1.0, 0.9, 0.7, 0.4]: " in refusal(
        combinations, study
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"space": {}, "arms": {"a": {}, "b": {"tasks.edit": 0}}}, "space: try has none"),
        ({"curve_every": 0}, "curve_every: 0 in a search"),
        ({"curve_every": 11}, "curve_every: 11 with 10 iterations"),
        (
            {
                "space": {
                    "teacher_defaults.guidance_scale": list(range(1, 50)),
                    "data.num_cases": list(range(9, 40)),
                }
            },
            "space: 1,519 combinations; allowed: up to 1,000",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(file, changes, expected):
    assert expected in refusal(combinations, load_study(file(**changes)))


def search(file, out, method="asha", trials=None):
    return refusal(commands.search, file(), out, method, trials, None, None, None)


def test_methods_that_cannot_search_are_refused_before_anything_is_written(
    file, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert "--method: 'pbt': population based training copies weights" in search(file, out, "pbt")
    assert "--method: unknown method 'ashha'; did you mean asha?" in search(file, out, "ashha")
    assert "--trials: 5; the space has 4 combinations" in search(file, out, trials=5)
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert "--method: optuna is not installed" in search(file, out, "optuna")
    assert not out.exists()


def test_a_finished_search_is_left_as_it_is(file, tmp_path):
    (tmp_path / "study.json").write_text(json.dumps({"name": "try"}))
    (tmp_path / "best.yaml").write_text("name: best")
    assert "holds a finished search, best.yaml" in search(file, tmp_path)
    assert (tmp_path / "best.yaml").read_text() == "name: best"


def test_optuna_proposes_what_scores_well_more_often_and_nothing_twice():
    from flash_ray.studies.optuna_search import OptunaProposals

    choices = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]

    def proposed(seed):
        searcher, numbers = OptunaProposals(choices, 30, seed), []
        for trial in map(str, range(30)):
            number = searcher.suggest(trial)["trial"]
            numbers.append(number)
            # Good is what has a 3 in the first place: a quarter. One trial fails without a score.
            result = {"score": float(choices[number][0] == 3)} if trial != "5" else None
            searcher.on_trial_complete(trial, result, error=result is None)
        return numbers

    of_seeds = [proposed(seed) for seed in range(3)]
    assert all(len(set(numbers)) == 30 for numbers in of_seeds)
    good = [sum(choices[number][0] == 3 for number in numbers) for numbers in of_seeds]
    assert sum(good) > 1.25 * 3 * 30 / 4
    assert proposed(0) == of_seeds[0] != of_seeds[1]


def test_the_first_proposals_may_be_open_at_the_same_time():
    from flash_ray.studies.optuna_search import OptunaProposals

    searcher = OptunaProposals([(0,), (1,), (2,)], 3, seed=0)
    assert {searcher.suggest(trial)["trial"] for trial in "abc"} == {0, 1, 2}
