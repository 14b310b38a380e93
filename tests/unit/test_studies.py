"""Study files: what they refuse, which trials they make, and for how long these train."""

import pickle

import pytest
import yaml

from flash_ray.errors import UserError
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.studies.space import combinations
from flash_ray.studies.study import load_study, plan_trials, shipped

STUDY = {
    "name": "try",
    "recipe": "miniature",
    "budget": {"iterations": 10},
    "seeds": [0, 1],
    "arms": {
        "half": {"tasks": {"t2i": 1, "edit": 1}},
        "images": {"tasks": {"t2i": 1, "edit": 0}},
    },
}


@pytest.fixture
def load(tmp_path):
    def loaded(**changes):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, **changes}))
        return load_study(str(file))

    return loaded


def refusal(load, **changes):
    with pytest.raises(UserError) as caught:
        load(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_arm_runs_under_every_seed_whole_seeds_first(load):
    trials = plan_trials(load())
    assert [(t.arm, t.seed) for t in trials] == [
        ("half", 0),
        ("images", 0),
        ("half", 1),
        ("images", 1),
    ]
    assert [t.recipe.seed for t in trials] == [0, 0, 1, 1]
    assert trials[0].recipe.name == trials[0].name == "try-half-0"
    assert len({t.digest for t in trials}) == 4


def test_a_trial_knows_its_benchmark_where_the_files_are_not(load, tmp_path):
    file = tmp_path / "signs.csv"
    file.write_text("prompt,category,text\na sign that says OPEN,signs,OPEN\n")
    fields = {
        "benchmark": {"t2i": str(file)},
        "judge": "ocr",
        "cases": {"t2i": 1},
        "development": 0,
    }
    (first, *_) = plan_trials(load(**fields))
    file.unlink()
    there = pickle.loads(pickle.dumps(first))
    assert there.digest == first.digest and there.benchmark[0] == "signs"
    file.write_text("prompt,category,text\na sign that says EXIT,signs,EXIT\n")
    assert plan_trials(load(**fields))[0].digest != first.digest
    file.write_text("prompt,category,text\n,signs,EXIT\n")
    message = refusal(load, **fields)
    assert message.startswith("benchmark.t2i: signs.csv line 2: empty prompt")


@pytest.mark.parametrize("name", shipped())
def test_the_shipped_studies_can_be_planned(name):
    study = load_study(name)
    assert study.arms or study.space
    assert not study.arms or len(plan_trials(study)) > 4
    assert not study.space or len(combinations(study)) > 4


def test_what_decides_a_trial_changes_its_digest(load):
    before = plan_trials(load())[0].digest
    assert plan_trials(load(budget={"iterations": 11}))[0].digest != before
    assert plan_trials(load(cases={"t2i": 3}))[0].digest != before
    assert plan_trials(load(development=8))[0].digest != before
    assert plan_trials(load(early=5))[0].digest != before
    assert plan_trials(load(redraw=True))[0].digest != before
    assert plan_trials(load(diversity={"prompts": 2, "noises": 2}))[0].digest != before
    assert plan_trials(load(judge="ocr"))[0].digest != before
    assert plan_trials(load(claims=[], margins={"score": 0.2}))[0].digest == before
    assert plan_trials(load(benchmark="miniature", judge="exact"))[0].digest == before


def test_a_claim_is_about_a_category_that_the_judge_can_judge(load, tmp_path):
    (tmp_path / "own.csv").write_text(
        "id,prompt,category,text\n1,a lake,land,\n2,a sign,signs,OPEN\n3,a hill,land,\n"
    )
    own = {"t2i": str(tmp_path / "own.csv")}
    fields = {"benchmark": own, "judge": "ocr", "cases": {"t2i": 2}, "development": 0}
    claim = {"text": "t", "source": "s", "left": ["half"], "right": ["images"], "expect": "lower"}
    for measure in ("t2i", "t2i.signs"):
        (read,) = load(**fields, claims=[{**claim, "measure": measure}]).claims
        assert read.measure == measure
    message = refusal(load, **fields, claims=[{**claim, "measure": "t2i.land"}])
    assert message.startswith("claims.0.measure: ocr can judge none of the 2 cases of benchmark")
    message = refusal(load, **fields, claims=[{**claim, "measure": "t2i.landscape"}])
    assert "unknown task or category 't2i.landscape'" in message and "t2i.signs" in message


def test_another_benchmark_changes_the_digest(load, monkeypatch):
    before = plan_trials(load())[0].digest
    monkeypatch.setattr(MiniatureBenchmark, "digest", "0123456789abcdef")
    assert plan_trials(load())[0].digest != before


def test_a_study_may_name_benchmark_and_judge_of_a_recipe_that_has_none(load):
    trials = plan_trials(load(set={"evaluation.benchmark": None}, benchmark="miniature"))
    assert {trial.recipe.evaluation.benchmark for trial in trials} == {"miniature"}
    cases = plan_trials(load(cases={"edit": 2}))[0].scored_cases()
    assert [case.id for case in cases["edit"]][:3] == ["scene-016", "scene-017", "enhancement-016"]


def test_redrawn_seeds_take_other_training_cases(load):
    trials = plan_trials(load(redraw=True))
    assert [trial.recipe.data.selection_seed for trial in trials] == [0, 0, 1, 1]
    assert plan_trials(load())[0].recipe.data.selection_seed is None


def test_cases_must_be_left_of_a_benchmark_from_files(load, tmp_path):
    rows = ["prompt,category,text", *(f"a sign {n} that says OPEN,signs,OPEN" for n in range(5))]
    rows += [f"a label {n} that says NEW,labels,NEW" for n in range(9)]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    fields = {"benchmark": {"t2i": str(tmp_path / "own.csv")}, "judge": "ocr", "cases": {"t2i": 3}}
    assert refusal(load, **fields) == (
        "development: 16, but own has 5 cases of t2i.signs, and none is left to be scored on; "
        "allowed: 0 to 4; set e.g. development: 1"
    )
    cases = plan_trials(load(**fields, development=4))[0].scored_cases()["t2i"]
    assert sorted(case.category for case in cases) == ["labels"] * 3 + ["signs"]


def iterations(study, arm):
    return next(t.recipe.training.iterations for t in plan_trials(study) if t.arm == arm)


def test_a_budget_of_images_counts_all_workers_samples(load):
    assert iterations(load(budget={"images": 321}), "half") == 11  # of 2 workers x 16


def test_a_budget_of_passes_trains_longer_on_more_cases(load):
    arms = {"few": {"data.num_cases": 64}, "many": {"data.num_cases": 128}}
    study = load(budget={"passes": 1.5}, arms=arms)
    assert (
        iterations(study, "few") == 6 and iterations(study, "many") == 12
    )  # of 2 tasks, 32 a batch
    capped = load(budget={"passes": 1.5}, arms={**arms, "many": {"data.max_per_category": 16}})
    unique = 3 * 16 + 6 * 16
    assert iterations(capped, "many") == -(-unique * 1.5 // 32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"budget": {}},
            "budget: nothing given; allowed: exactly one of iterations, images, passes",
        ),
        ({"budget": {"iterations": 1, "images": 2}}, "budget: iterations and images given"),
        ({"arms": {"a": {}, "b": {}}}, "arms.b: the same recipe as arm a"),
        (
            {"arms": {"a": {}, "b": {"student.steps": 2}}},
            "arms.b: changes student, which is fixed; allowed: what arm a has",
        ),
        (
            {"arms": {"a": {}, "b": {"training.ema_decay": 0.5}}},
            "arms.b: changes training, which is fixed",
        ),
        ({"fixed": ["students"]}, "fixed: 'students' is no field of a recipe"),
        (
            {"arms": {"a": {}, "b": {"training.precision": "bf16"}}, "fixed": []},
            "arms.b: changes training.precision, which is fixed; allowed: what arm a has; "
            "remove that override: trials share teachers and cases",
        ),
        ({"arms": {}}, "arms: 0 given; allowed: two or more"),
        ({"arms": {"a": {}}}, "arms: 1 given; allowed: two or more"),
        (
            {"arms": {"a": {}, "b": {"data.composition.t2i": {"landscap": 1}}}},
            "arms.b: data.composition.t2i.landscap: unknown category 'landscap'; did you mean "
            "landscape?",
        ),
        (
            {"arms": {"a": {}, "b": {"teachers": "step-wise"}}},
            "arms.b: teachers: unknown preset 'step-wise'; did you mean step-wise-by",
        ),
        (
            {"arms": {"a": {}, "b": {"teachers": [{"name": "base", "weight": 0.9}]}}},
            "arms.b: teachers: λ sums to 0.9",
        ),
        (
            {"factors": {"f": {"title": "F", "arms": ["half", "imagess"]}}},
            "factors.f.arms: unknown arm 'imagess'; did you mean images?",
        ),
        ({"seeds": [3, 3]}, "seeds: 3 is given 2 times"),
        ({"arm": {}}, "study: arm: unknown key; did you mean arms?"),
        (
            {"factors": {"f": {"title": "F", "arm": ["half", "images"]}}},
            "study: factors.f.arm: unknown key; did you mean factors.f.arms?",
        ),
        ({"seeds": "three"}, "study: seeds: value 'three'"),
        (
            {"budget": {"updates": 10}},
            "study: budget.updates: renamed; now budget.iterations; write",
        ),
        ({"benches": {"t2i": 3}}, "study: benches: renamed; now cases; write that"),
        ({"margin": 0.2}, "study: margin: renamed; now margins.score; write that"),
        ({"margins": {"score": 0}}, "study: margins.score: value 0"),
        (
            {"factors": {"f": {"title": "F", "arms": ["half", "images"], "benches": ["t2i"]}}},
            "study: factors.f.benches: renamed; now factors.f.tasks; write that",
        ),
        (
            {"factors": {"f": {"title": "F", "arms": ["half", "images"]}}, "cases": {"edit": 3}},
            "factors.f.tasks: unknown task 't2i'; allowed: edit",
        ),
        ({"cases": {"t2i": 0}}, "study: cases.t2i: value 0"),
        (
            {"early": 10},
            "early: 10 of 10 iterations of arm half; allowed: 1 to below them, or null",
        ),
        (
            {"curve_every": 5, "development": 1},
            "development: 1 cases of each category, and the curves show 2 (evaluation.cases.t2i); "
            "allowed: 2 or more",
        ),
        (
            {"diversity": {"prompts": 17, "noises": 4}},
            "diversity.prompts: 17 of 16 cases of each category; allowed: 1 to 16",
        ),
        ({"diversity": {"prompts": 2, "noises": 1}}, "study: diversity.noises: value 1"),
        ({"benchmark": "miniatur"}, "benchmark: unknown benchmark 'miniatur'; did you mean mini"),
        ({"judge": "exakt"}, "judge: unknown judge 'exakt'; did you mean exact?"),
        (
            {"set": {"evaluation.benchmark": None}},
            "benchmark: the study names none and its recipe's evaluation.benchmark is null; "
            "allowed: miniature",
        ),
        (
            {"arms": {"a": {}, "b": {"evaluation.cases.t2i": 3}}},
            "arms.b: changes evaluation, which is fixed",
        ),
        ({"recipe": "minature"}, "arms.half: recipe: minature: No such file"),
        (
            {
                "claims": [
                    {
                        "text": "t",
                        "source": "s",
                        "left": ["half"],
                        "right": ["images"],
                        "measure": "t2i.texts",
                        "expect": "higher",
                    }
                ]
            },
            "claims.0.measure: unknown task or category 't2i.texts'; did you mean t2i.text?",
        ),
    ],
)
def test_bad_studies_are_refused_in_one_line(load, changes, expected):
    assert expected in refusal(load, **changes)


CLAIM = {"text": "t", "source": "s", "left": ["half"], "right": ["images"], "measure": "t2i"}


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (
            {"outcome": "complience"},
            "claims.0.outcome: unknown outcome 'complience'; did you mean compliance? allowed: "
            "compliance, diversity, score; rename or remove it, or add what difference of it "
            "counts, as margins: {complience: 0.05}",
        ),
        ({"horizon": "early"}, "claims.0.horizon: early, but the study scores students at the end"),
        (
            {"outcome": "diversity"},
            "claims.0.outcome: diversity, which the study does not draw late; allowed: late, with "
            "e.g. diversity: {prompts: 4, noises: 4}; set it",
        ),
        (
            {"effect": -0.3},
            "claims.0.effect: -0.3 where the claim expects higher; allowed: left - ",
        ),
        ({"expect": "lower", "effect": 0.3}, "claims.0.effect: 0.3 where the claim expects lower"),
        (
            {"expect": "best", "left": ["half", "third"]},
            "claims.0.left: 2 arms in a claim of the best; allowed: one; make a claim of each",
        ),
    ],
)
def test_claims_that_nothing_could_decide_are_refused(load, claim, expected):
    arms = {**STUDY["arms"], "third": {"tasks": {"t2i": 0, "edit": 1}}}
    margins = {"score": 0.1, "compliance": 0.05, "diversity": 0.02}
    claims = [{**CLAIM, "expect": "higher", **claim}]
    message = refusal(load, arms=arms, margins=margins, claims=claims)
    assert message.removeprefix("study: ").startswith(expected)


def test_a_claim_may_be_of_a_measure_of_what_is_early_and_of_diversity(load):
    fields = {"early": 5, "diversity": {"prompts": 2, "noises": 3}}
    margins = {"score": 0.1, "compliance": 0.05, "diversity": 0.02}
    claims = [
        {**CLAIM, "expect": "best", "horizon": "early", "effect": 0.2},
        {**CLAIM, "expect": "not lower", "outcome": "compliance", "effect": -0.01},
        {**CLAIM, "expect": "lower", "outcome": "diversity"},
    ]
    study = load(**fields, margins=margins, claims=claims)
    assert [claim.horizon for claim in study.claims] == ["early", "late", "late"]


def test_a_missing_file_names_the_shipped_studies():
    with pytest.raises(UserError, match="allowed: a YAML file, or a shipped study .*three-factors"):
        load_study("four-factors")
