"""Intervals over seeds and cases, and what they decide."""

import numpy as np
import pytest

from flash_ray.evaluation.statistics import Estimate, Scores, difference, mean
from flash_ray.studies.findings import decide

CATEGORIES = ("a", "b")


def scores(level=0.0, seeds=(0, 1, 2), of_seed=0.1, of_case=0.5, of_both=0.1, draw=0):
    """Additive scores: a case is equally hard for all arms, a seed equally good for all cases."""
    cases, own = np.random.default_rng(1), np.random.default_rng([2, draw])
    return Scores(
        tuple(seeds),
        {
            name: level
            + cases.normal(0, of_case, (1, 20))
            + own.normal(0, of_seed, (len(seeds), 1))
            + own.normal(0, of_both, (len(seeds), 20))
            for name in CATEGORIES
        },
    )


def test_the_mean_is_over_categories_seeds_and_cases():
    arm = Scores((0, 1), {"a": np.full((2, 3), 2.0), "b": np.full((2, 9), 4.0)})
    assert mean(arm, CATEGORIES) == Estimate(3.0, 3.0, 3.0)


def test_pairing_takes_the_cases_difficulty_out():
    one, other = scores(draw=1), scores(level=0.5, draw=2)
    alone, paired = mean(one, CATEGORIES), difference([other], [one], CATEGORIES)
    assert paired.high - paired.low < 0.7 * (alone.high - alone.low)
    assert not paired.includes_zero and paired.mean == pytest.approx(0.5, abs=0.2)


def test_seeds_that_differ_widen_the_interval():
    calm = difference([scores(draw=1)], [scores(draw=2)], CATEGORIES)
    wild = difference([scores(of_seed=1.0, draw=1)], [scores(of_seed=1.0, draw=2)], CATEGORIES)
    assert wild.high - wild.low > 3 * (calm.high - calm.low)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Under no difference; two-way resampling may be too wide, few seeds make it too narrow."""
    seeds = range(8)
    inside = sum(
        difference(
            [scores(seeds=seeds, draw=2 * i)], [scores(seeds=seeds, draw=2 * i + 1)], CATEGORIES
        ).includes_zero
        for i in range(60)
    )
    assert inside >= 50


def test_arms_are_compared_over_the_seeds_that_all_have():
    one, other = scores(seeds=(0, 1)), scores(seeds=(1, 2))
    found = difference([one], [other], CATEGORIES)
    expected = np.mean([one.categories[c][1] - other.categories[c][0] for c in CATEGORIES])
    assert found.mean == pytest.approx(expected)
    assert difference([one], [scores(seeds=(5,))], CATEGORIES) is None


def test_several_arms_on_a_side_count_by_their_mean():
    high, low, other = scores(1.0, draw=3), scores(0.0, draw=4), scores(0.5, draw=5)
    both = difference([high, low], [other], CATEGORIES).mean
    each = [difference([arm], [other], CATEGORIES).mean for arm in (high, low)]
    assert both == pytest.approx(np.mean(each))


@pytest.mark.parametrize(
    ("expect", "low", "high", "verdict"),
    [
        ("higher", 0.1, 0.3, "replicated"),
        ("higher", -0.1, 0.3, "undecided"),
        ("higher", -0.3, -0.1, "contradicted"),
        ("lower", -0.3, -0.1, "replicated"),
        ("lower", -0.1, 0.3, "undecided"),
        ("lower", 0.1, 0.3, "contradicted"),
        ("not lower", -0.05, 0.3, "replicated"),
        ("not lower", -0.08, -0.02, "replicated"),
        ("not lower", -0.2, 0.3, "undecided"),
        ("not lower", -0.4, -0.2, "contradicted"),
    ],
)
def test_a_verdict_needs_the_whole_interval(expect, low, high, verdict):
    assert decide(expect, Estimate((low + high) / 2, low, high), margin=0.1) == verdict


def test_without_an_interval_there_is_no_verdict():
    assert decide("higher", None, 0.1) == "undecided"
    assert decide("higher", Estimate(1.0, float("nan"), float("nan")), 0.1) == "undecided"
