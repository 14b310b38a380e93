"""Plans of studies: hours and powers from a pilot's records, and pilots that say nothing."""

import re

import pytest
import yaml
from typer.testing import CliRunner

from flash_ray.cli.app import app
from flash_ray.errors import UserError
from flash_ray.studies.plan import pace_of
from flash_ray.studies.records import TRIALS, read_records
from flash_ray.workflows import study_plan
from tests.helpers.study_records import STUDY, finished_study, remove_records

MORE = {
    "source": "them",
    "left": ["good"],
    "right": ["half", "bad"],
    "measure": "edit",
    "expect": "best",
    "effect": 0.3,
}
CLAIMS = [
    {**MORE, "text": "good is the best"},
    {**MORE, "text": "soon too", "horizon": "early"},
    {**MORE, "text": "and as it is told", "outcome": "compliance", "expect": "not lower"},
    {**MORE, "text": "and as diverse", "outcome": "diversity", "measure": "t2i"},
]


@pytest.fixture
def pilot(tmp_path):
    """(trials, folder) of a study that is finished."""
    (tmp_path / "pilot").mkdir()
    _, trials, out = finished_study(tmp_path / "pilot" / "small.yaml")
    return trials, out


@pytest.fixture
def planned(tmp_path):
    """Writes a study like the pilot's, and returns its file."""

    def written(**changes):
        file = tmp_path / "large.yaml"
        fields = {**yaml.safe_load(STUDY), "name": "large", "claims": CLAIMS, **changes}
        file.write_text(yaml.safe_dump(fields, sort_keys=False))
        return str(file)

    return written


def test_a_plan_says_hours_and_what_each_claim_could_find(pilot, planned):
    plan, faults = study_plan.plan(planned(seeds=[0, 1, 2]), pilot[1], 2)
    assert not faults and plan.at_once == 2
    assert (plan.own.seeds, plan.own.cases) == (3, {"t2i": 4, "edit": 2})
    sized = {(of.seeds, of.cases["t2i"]): of for of in plan.options}
    assert sized[6, 4].hours == pytest.approx(2 * sized[3, 4].hours)
    assert sized[3, 4].hours < sized[3, 8].hours < 2 * sized[3, 4].hours
    for index in range(len(CLAIMS)):
        least = [sized[n, cases].powers[index].detectable for n, cases in ((3, 4), (6, 4), (6, 8))]
        assert least[0] > least[1] >= least[2] > 0
    assert plan.own.powers[0].effect > 0.99
    hours = [of.hours for of in plan.options]
    assert hours == sorted(hours)
    most = max(of.reached for of in plan.options)
    assert plan.proposed == next(of for of in plan.options if of.reached == most)


def test_the_pace_is_of_images_and_of_pictures(pilot):
    trials, out = pilot
    (record, *_) = read_records(out, trials)[0].values()
    pictures = 2 * (3 * 4 + 6 * 2) + 2 * (3 * 2 + 6 * 2)  # two horizons; two noises of a prompt
    found = pace_of([record], noises=2)
    assert found.image == pytest.approx(record.cost.seconds / 320)
    assert found.picture == pytest.approx((150 - record.cost.seconds) / pictures)
    untimed = record.cost.model_copy(update={"total_seconds": 0.0})
    assert pace_of([record.model_copy(update={"cost": untimed})], 2) is None


def test_the_command_prints_claims_sizes_and_a_proposal(pilot, planned):
    ended = CliRunner().invoke(app, ["study", "plan", planned(), "--pilot", str(pilot[1])])
    assert ended.exit_code == 0, ended.output
    for text in ("good is the", "detectable", "claims that reach δ", "(the study's)"):
        assert text in ended.output
    assert re.search(
        r"proposed: \d seeds, cases: \{t2i: \d+, edit: \d+\}, [0-9.]+ hours", ended.output
    )


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        study_plan.plan(*arguments, None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pilots_that_say_nothing_are_refused(pilot, planned, tmp_path):
    trials, out = pilot
    assert refusal(planned(claims=[]), out).startswith("claims: large has none")
    assert refusal(planned(), tmp_path).startswith("--pilot: no study in ")
    assert "has judge exact; allowed: that of the study, ocr" in refusal(
        planned(
            judge="ocr", cases={"t2i": 4}, claims=[CLAIMS[3] | {"outcome": "score"}], factors={}
        ),
        out,
    )
    remove_records(out, *(trial.name for trial in trials if trial.seed == 1))
    assert "has no arm with scores of t2i under two seeds" in refusal(planned(), out)
    (out / TRIALS).unlink()
    assert "has no arm with scores of t2i" in refusal(planned(), out)


def test_a_pilot_without_what_a_claim_measures_says_so(pilot, planned):
    claim = CLAIMS[3] | {"outcome": "beauty"}
    margins = yaml.safe_load(STUDY)["margins"] | {"beauty": 0.1}
    plan, _ = study_plan.plan(planned(claims=[claim, CLAIMS[0]], margins=margins), pilot[1], None)
    assert plan.own.powers[0] is None and plan.own.powers[1]


@pytest.mark.parametrize("content", ["{", '{"name": "small"}', "[]"])
def test_a_damaged_study_is_named(pilot, planned, content):
    (pilot[1] / "study.json").write_text(content)
    assert "study.json is corrupt" in refusal(planned(), pilot[1])
