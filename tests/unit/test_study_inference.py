"""Intervals of studies hold the truth as often as they say, in simulated studies."""

import numpy as np
import pytest

from flash_ray.studies.components import Scores, estimate
from flash_ray.studies.inference import Effect, case_mean, fit, holm, standard_error

STUDIES, BATCH = 2000, 250
EVEN = {"landscape": 0.30, "portrait": 0.30, "text": 0.30}  # flicker by category
UNEVEN = {"landscape": 0.14, "portrait": 0.43, "text": 0.24}


def simulated(
    arms=12, seeds=3, cases=12, seed_sd=0.02, flicker=EVEN, arm_case=0.15, common_sd=0.0, draw=0
):
    """Batches of studies whose arms are all alike: (studies, A, S, C) by category."""
    rng = np.random.default_rng([draw, arms, seeds, cases])

    def normal(sd, *shape):
        return np.float32(sd) * rng.standard_normal((BATCH, *shape), dtype=np.float32)

    names = tuple(f"arm-{n}" for n in range(arms))
    for _ in range(STUDIES // BATCH):
        seed = normal(seed_sd, arms, seeds, 1) + normal(common_sd, 1, seeds, 1)
        values = {
            name: seed
            + normal(0.25, 1, 1, cases)
            + normal(arm_case, arms, 1, cases)
            + normal(sd, arms, seeds, cases)
            for name, sd in flicker.items()
        }
        yield Scores(names, tuple(range(seeds)), np.ones((arms, seeds), bool), values)


def covered(effects, truth=0.0):
    """The share of intervals that hold the truth."""
    inside = [(low <= truth) & (truth <= high) for low, high in (e.interval() for e in effects)]
    return float(np.mean(np.concatenate(inside)))


REGIMES = [
    dict(seeds=3, cases=12, seed_sd=0.02),
    dict(seeds=3, cases=36, seed_sd=0.05, arms=16),
    dict(seeds=3, cases=100, seed_sd=0.02, flicker=UNEVEN),
    dict(seeds=4, cases=100, seed_sd=0.05, arms=10),
    dict(seeds=3, cases=200, seed_sd=0.05, arms=10),
    dict(seeds=6, cases=64, seed_sd=0.02, flicker=UNEVEN),
]


@pytest.mark.parametrize("regime", REGIMES, ids=str)
def test_intervals_hold_the_truth_as_often_as_they_say(regime):
    found = {"difference": [], "groups": [], "mean": []}
    for scores in simulated(**regime):
        factor = scores.arms[: len(scores.arms) // 2]
        model = fit(scores, factor, list(scores.categories))
        found["difference"].append(model.contrast(["arm-0"], ["arm-1"]))
        found["groups"].append(model.contrast(["arm-2", "arm-3"], ["arm-4"]))
        found["mean"].append(model.mean("arm-0"))
    for name, effects in found.items():
        assert 0.93 <= covered(effects) <= 0.97, name


@pytest.mark.parametrize("seeds", [3, 4])
def test_paired_intervals_hold_the_truth_as_often_as_they_say(seeds):
    """What a seed does to all arms alike is four times what it does to each."""
    paired, unpaired = [], []
    for scores in simulated(arms=5, seeds=seeds, cases=64, seed_sd=0.03, common_sd=0.12):
        for effects, pairing in ((paired, True), (unpaired, False)):
            model = fit(scores, scores.arms, list(scores.categories), pairing)
            effects.append(model.contrast(["arm-0"], ["arm-1", "arm-2"]))
    assert 0.93 <= covered(paired) <= 0.97
    assert np.mean(paired[0].se) < 0.5 * np.mean(unpaired[0].se)


def test_missing_trials_and_one_category_are_covered_too():
    effects = []
    for scores in simulated(seeds=4, cases=48, seed_sd=0.05):
        present_AS = scores.present_AS.copy()
        present_AS[0, 1:3] = present_AS[3, 0] = False
        values = {n: v * present_AS[:, :, None] for n, v in scores.categories.items()}
        whole = Scores(scores.arms, scores.seeds, present_AS, values)
        model = fit(whole, whole.arms[:6], ["text"])
        effects.append(model.contrast(["arm-0"], ["arm-1"]))
    assert 0.93 <= covered(effects) <= 0.97


def test_the_variances_are_what_went_in():
    found = [
        estimate(scores, scores.arms)
        for scores in simulated(seeds=4, cases=48, seed_sd=0.05, flicker=UNEVEN)
    ]
    for name, sd in UNEVEN.items():
        assert np.mean([v.flicker[name] for v in found]) == pytest.approx(sd**2, rel=0.02)
        assert np.mean([v.arm_case[name] for v in found]) == pytest.approx(0.15**2, rel=0.05)
    assert found[0].seed_df == 12 * 3
    seed = np.mean([v.seed - v.flicker_part for v in found])
    assert seed == pytest.approx(0.05**2, rel=0.05)
    fewer = [v.at({name: 12 for name in UNEVEN}, v.seed_df) for v in found]
    flicker = sum(sd**2 for sd in UNEVEN.values()) / 12 / 9
    assert np.mean([v.seed for v in fewer]) == pytest.approx(0.05**2 + flicker, rel=0.05)


def test_of_arms_that_are_alike_few_claims_pass_together():
    """Five claims that share arms: at most 5 % of studies find any of them true."""
    wrong = []
    for scores in simulated(cases=36):
        model = fit(scores, scores.arms, list(scores.categories))
        p_values = [model.contrast(["arm-0"], [f"arm-{n}"]).p() for n in range(1, 6)]
        wrong += [min(holm(of_study)) < 0.05 for of_study in np.transpose(p_values)]
    assert 0.01 < np.mean(wrong) < 0.06


def test_arms_that_are_alike_are_found_to_be_with_enough_cases():
    """The share of studies that say "no effect of 0.1", as the review's table of power has it."""
    shares = {}
    for cases in (12, 100):
        inside = []
        for scores in simulated(arms=16, cases=cases, flicker=UNEVEN):
            effect = fit(scores, scores.arms, list(scores.categories)).contrast(
                ["arm-0"], ["arm-1"]
            )
            low, high = effect.interval(0.9)
            inside.append((low > -0.1) & (high < 0.1))
        shares[cases] = np.mean(inside)
    assert shares[12] < 0.25 and shares[100] > 0.95


def test_no_effect_is_seldom_said_of_an_effect_of_that_size():
    inside = []
    for scores in simulated(arms=16, cases=100):
        model = fit(scores, scores.arms, list(scores.categories))
        effect = model.contrast(["arm-0"], ["arm-1"])
        low, high = (end + 0.1 for end in effect.interval(0.9))
        inside.append((low > -0.1) & (high < 0.1))
    assert np.mean(inside) < 0.06


def test_holm_steps_down():
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []


def small(**values):
    """Two arms, the other 0, two seeds each and the same values by category in both."""
    categories = {name: np.array([[of, of], np.zeros((2, len(of)))]) for name, of in values.items()}
    return Scores(("good", "other"), (0, 1), np.ones((2, 2), bool), categories)


def test_categories_weigh_alike_whatever_their_cases():
    scores = small(a=[1.0, 1.0, 1.0], b=[3.0, 3.0])
    model = fit(scores, scores.arms, ["a", "b"])
    assert model.contrast(["good"], ["other"]).mean == 2.0
    assert model.mean("good").mean == 2.0
    assert fit(scores, scores.arms, ["b"]).contrast(["good"], ["other"]).mean == 3.0


def test_the_share_of_the_gap_is_where_the_arm_stands():
    scores = small(a=[3.0, 3.2, 3.1, 3.3])
    model = fit(scores, scores.arms, ["a"])
    untrained = {"a": np.array([2.0, 2.2, 2.2, 2.2])}
    teacher = {"a": np.array([4.1, 4.1, 4.2, 4.4])}
    found = model.closed("good", teacher, untrained)
    assert found.mean == pytest.approx((3.15 - 2.15) / (4.2 - 2.15))
    assert 0 < found.low < found.mean < found.high < 1
    assert model.closed("good", untrained, teacher) is None  # no gap
    assert model.closed("good", untrained, untrained) is None


def test_a_category_of_one_case_has_no_interval():
    scores = small(a=[1.0], b=[1.0, 2.0])
    model = fit(scores, scores.arms, ["a", "b"])
    assert np.isnan(model.contrast(["good"], ["other"]).se) and np.isnan(model.mean("good").se)
    assert np.isnan(model.contrast(["good"], ["other"]).p())
    assert not model.contrast(["good"], ["other"]).within(9.0)


def test_the_best_arm_is_probably_the_one_that_stands_out():
    (scores, *_) = simulated(arms=4, cases=100)
    ahead = np.array([0.2, 0, 0, 0])[:, None, None]
    values = {name: of[0] + ahead for name, of in scores.categories.items()}
    one = Scores(scores.arms, scores.seeds, scores.present_AS, values)
    model = fit(one, one.arms, list(one.categories))
    assert model.probability_best("arm-0", ["arm-1", "arm-2", "arm-3"]) > 0.95
    assert model.probability_best("arm-2", ["arm-0", "arm-1"]) < 0.05


def test_more_seeds_or_arms_make_a_difference_surer():
    (scores, *_) = simulated()
    found = estimate(scores, scores.arms)
    one, df = standard_error(found, [3], [3])
    assert df == 24
    assert np.all(standard_error(found, [6], [6])[0] < one)
    assert np.all(standard_error(found, [3, 3], [3])[0] < one)


def test_an_effect_says_what_it_excludes():
    effect = Effect(0.05, 0.01, 30)
    assert effect.p() < 0.001 < 0.5 < effect.p(0.0505)
    assert effect.within(0.1) and not effect.within(0.06)
    assert case_mean({"a": np.array([1.0, 3.0])}).mean == 2.0
