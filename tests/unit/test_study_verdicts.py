"""What decides a claim: borders, margins, corrections, pairing, seeds that are missing."""

import numpy as np
import pytest

from flash_ray.studies.components import Scores, Variances
from flash_ray.studies.outcomes import Measured, Outcome
from flash_ray.studies.power import Design, detectable, needs, power_of_effect, power_of_no_effect
from flash_ray.studies.study import Study
from flash_ray.studies.verdicts import ACROSS, Analysis, verdicts_of

ARMS = ("base", "higher", "level", "lower", "lowest")
LEVELS = {"base": 4.0, "higher": 4.3, "level": 4.0, "lower": 3.95, "lowest": 3.6}
FACTORS = {
    "one": {"title": "One", "arms": ["base", "higher", "level"]},
    "two": {"title": "Two", "arms": ["base", "lower", "lowest"]},
}


def claim(left, right, expect, **fields):
    sides = {"left": left.split(), "right": right.split()}
    common = {"text": "so", "source": "us", "measure": "t2i"}
    return {**common, **sides, "expect": expect, **fields}


def study(*claims, factors=FACTORS):
    fields = {"name": "try", "recipe": "miniature", "budget": {"iterations": 2}}
    arms = dict.fromkeys(ARMS, {})
    return Study.model_validate(
        {**fields, "arms": arms, "factors": factors, "claims": claims, "cases": {"t2i": 40}}
    )


def outcome(seeds=3, cases=40, noise=0.1, common=0.0, missing=(), levels=LEVELS):
    """Scores of two categories about the arms' levels; exact where the noise is 0."""
    rng = np.random.default_rng(5)
    level_A11 = np.array(list(levels.values()))[:, None, None]
    seed = rng.normal(0, 1, (1, seeds, 1)) * common
    present_AS = np.ones((len(levels), seeds), bool)
    for arm, seed_index in missing:
        present_AS[list(levels).index(arm), seed_index] = False
    values = {}
    for name in ("face", "text"):
        of_case = rng.normal(0, 0.3, (1, 1, cases))
        flicker = rng.normal(0, 1, (len(levels), seeds, cases))
        of_flicker = flicker - flicker.mean((1, 2), keepdims=True)  # means are the levels
        values[name] = (level_A11 + of_case + seed + noise * of_flicker) * present_AS[:, :, None]
    return Outcome(Scores(tuple(levels), tuple(range(seeds)), present_AS, values), {}, {}, 0)


def verdicts(*claims, paired=(), factors=FACTORS, **fields):
    analysis = Analysis(
        study(*claims, factors=factors), {Measured("t2i"): outcome(**fields)}, frozenset(paired)
    )
    return verdicts_of(analysis)


@pytest.mark.parametrize(
    ("of_claim", "verdict"),
    [
        (claim("higher", "base", "higher"), "replicated"),
        (claim("higher", "base", "lower"), "contradicted"),
        (claim("higher", "base", "not lower"), "replicated"),
        (claim("lowest", "base", "lower"), "replicated"),
        (claim("lowest", "base", "higher"), "contradicted"),
        (claim("lowest", "base", "not lower"), "contradicted"),
        (claim("level", "base", "higher"), "no effect"),
        (claim("level", "base", "lower"), "no effect"),
        (claim("level", "base", "not lower"), "replicated"),
        (claim("higher", "base level", "best"), "replicated"),
        (claim("base", "higher level", "best"), "contradicted"),
        (claim("level", "base", "best"), "no effect"),
    ],
)
def test_a_verdict_is_of_the_border_that_the_claim_has(of_claim, verdict):
    (found,) = verdicts(of_claim)
    assert found.verdict == verdict


def test_wide_intervals_leave_it_open_and_say_what_it_takes():
    (found,) = verdicts(claim("level", "base", "higher"), noise=1.5, cases=20)
    assert found.verdict == "undecided" and not found.is_small
    assert found.at_most == pytest.approx(found.effect.high) and found.at_most > 0.1
    assert found.needs
    (lower,) = verdicts(claim("level", "base", "lower"), noise=1.5, cases=20)
    assert lower.at_most == pytest.approx(-found.effect.low)


def test_an_effect_may_be_real_and_smaller_than_what_counts():
    (found,) = verdicts(claim("lower", "base", "lower"))
    assert (found.verdict, found.is_small) == ("replicated", True)
    assert found.effect.mean == pytest.approx(-0.05)


def test_the_effect_of_the_source_is_excluded_or_not():
    inside, outside, none = verdicts(
        claim("higher", "base", "higher", effect=0.29),
        claim("higher", "level", "higher", effect=0.6),
        claim("level", "base", "higher"),
    )
    assert (inside.source, outside.source, none.source) == ("inside", "excluded", None)


def test_claims_of_a_factor_are_corrected_together():
    wide = {"noise": 0.9}
    of_interest = claim("higher", "base", "higher")
    (alone,) = verdicts(of_interest, **wide)
    together = verdicts(of_interest, *[claim("level", "base", "higher")] * 3, **wide)
    assert together[0].p == pytest.approx(4 * alone.p) and together[0].factor == "one"
    apart = verdicts(of_interest, *[claim("lower", "base", "lower")] * 3, **wide)
    assert apart[0].p == pytest.approx(alone.p) and apart[1].factor == "two"


def test_a_claim_across_factors_is_of_a_family_of_its_own():
    (found,) = verdicts(claim("higher", "lowest", "higher"))
    assert (found.factor, found.verdict) == (ACROSS, "replicated")


def test_the_best_has_to_beat_each_and_not_their_mean():
    best, mean = verdicts(
        claim("higher", "base level", "best"), claim("higher", "base level", "higher")
    )
    assert best.best > 0.99 and best.effect.mean == pytest.approx(0.3)
    tied = {**LEVELS, "level": 4.3}
    best, mean = verdicts(
        claim("higher", "base level", "best"),
        claim("higher", "base level", "higher"),
        levels=tied,
    )
    assert (best.verdict, mean.verdict) == ("undecided", "replicated")
    assert best.best == pytest.approx(0.5, abs=0.1)


def test_arms_of_the_same_data_are_paired_by_seed():
    of_claim = claim("higher", "base", "higher")
    (apart,) = verdicts(of_claim, common=0.5)
    (paired,) = verdicts(of_claim, common=0.5, paired=["one"])
    assert paired.effect.se < 0.2 * apart.effect.se
    assert (apart.effect.df, paired.effect.df) == (10, 4)
    (cut,) = verdicts(of_claim, common=0.5, paired=["one"], missing=[("level", 1), ("level", 2)])
    assert cut.effect.df == 8  # one seed in common: not paired


def test_one_seed_decides_nothing():
    for missing in ([("higher", 1), ("higher", 2)], [(a, s) for a in ARMS for s in (1, 2)]):
        (found,) = verdicts(claim("higher", "base", "higher"), missing=missing)
        assert (found.verdict, found.p) == ("undecided", None)
        assert found.effect.low < 0.3 < found.effect.high


def test_without_data_there_is_no_effect_and_no_verdict():
    levels = {arm: LEVELS[arm] for arm in ARMS[:3]}
    found = verdicts(
        claim("lowest", "base", "lower"),
        claim("higher", "base", "higher", measure="t2i.food"),
        claim("higher", "base", "higher"),
        levels=levels,
    )
    assert [v.verdict for v in found] == ["undecided", "undecided", "replicated"]
    assert found[0].effect is None and found[1].effect is None


def test_power_is_that_of_the_t_test():
    se, df = 0.02, 30
    least = detectable(se, df)
    assert least == pytest.approx(2.9 * se, rel=0.02)
    assert power_of_effect(se, df, least) == pytest.approx(0.8, abs=0.01)
    assert power_of_effect(se, df, -least) == pytest.approx(power_of_effect(se, df, least))
    assert power_of_effect(1e-6, df, 0.5) == pytest.approx(1.0)
    assert power_of_no_effect(0.03, 1000, 0.1) == pytest.approx(0.91, abs=0.01)
    assert power_of_no_effect(0.2, 30, 0.1) == 0.0


def test_what_it_takes_is_the_least_that_suffices():
    cases, variance = {"face": 20, "text": 10}, dict.fromkeys(("face", "text"), 0.3**2)
    found = Variances(cases, 0.05**2, 10, variance, dict.fromkeys(cases, 0.05**2))
    design = Design(1, 1, 5, 3, cases)
    of = needs(found, design, 0.1)
    for seeds, most, enough in (
        (of.seeds, 20, True),
        (of.seeds - 1, 20, False),
        (3, of.cases, True),
        (3, of.cases - 1, False),
    ):
        sized = Design(1, 1, 5, seeds, {"face": most, "text": round(most / 2)})
        assert (detectable(*sized.standard_error(found)) <= 0.1) == enough
    assert needs(found, design, 0.05).seeds is None  # the cases alone decide more
    assert needs(found, design, 1e-4).cases is None
