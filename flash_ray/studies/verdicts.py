"""What the data say of a study's claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from flash_ray.recipe.schema import Task
from flash_ray.studies.inference import ALPHA, Effect, Model, fit, holm
from flash_ray.studies.outcomes import Measured, Outcome
from flash_ray.studies.power import Design, Needs, needs
from flash_ray.studies.study import Claim, Factor, Study

Verdict = Literal["replicated", "contradicted", "no effect", "undecided"]
ACROSS = "across factors"  # the family of claims whose arms no factor has


@dataclass(frozen=True)
class ClaimVerdict:
    """What the data say of a claim.

    Args:
        factor: the name of the one that has its arms, or `ACROSS`: its claims are corrected
            together.
        effect: left - right; of "best", left minus the arm of right that is closest to it or
            above. None without data.
        p: of the border between true and false, corrected (Holm); None without a standard error.
        margin: δ, the difference that counts.
        is_small: the 90 % interval is inside ±δ, whatever else holds.
        source: whether the 95 % interval excludes the effect that the source reports; None if it
            reports none.
        best: of "best", the probability that left is above each of right.
        needs: what would decide an undecided claim.
    """

    claim: Claim
    factor: str
    effect: Effect | None
    p: float | None
    margin: float
    verdict: Verdict = "undecided"
    is_small: bool = False
    source: Literal["excluded", "inside"] | None = None
    best: float | None = None
    needs: Needs | None = None

    @property
    def at_most(self) -> float:
        """How far the difference may go in the claimed direction, at 95 %; of "not lower", how far
        below 0 it may be."""
        assert self.effect, "asked of what has been measured"
        claims_less = self.claim.expect in ("lower", "not lower")
        return max(0.0, -self.effect.low if claims_less else self.effect.high)


@dataclass(frozen=True)
class Analysis:
    """The outcomes of a study, and how its arms compare in them.

    Args:
        paired: factors whose arms see the same data in the same order under each seed.
    """

    study: Study
    outcomes: Mapping[Measured, Outcome]
    paired: frozenset[str]

    def model(self, factor: str, measured: Measured, categories: Sequence[str]) -> Model | None:
        """The arms of a factor in some categories, all if none are named; None without data."""
        outcome = self.outcomes.get(measured)
        if outcome is None:
            return None
        names = tuple(categories) or tuple(outcome.scores.categories)
        of_factor = self.study.tables[factor].arms if factor != ACROSS else outcome.scores.arms
        arms = [arm for arm in of_factor if arm in outcome.scores.arms]
        if not arms or not set(names) <= set(outcome.scores.categories):
            return None
        return fit(outcome.scores, arms, names, factor in self.paired)


def verdicts_of(analysis: Analysis) -> tuple[ClaimVerdict, ...]:
    """A verdict on each claim, in the study's order."""
    measured = [_measure(analysis, claim) for claim in analysis.study.claims]
    adjusted: dict[int, float] = {}
    for factor in {of.verdict.factor for of in measured}:
        family = [n for n, of in enumerate(measured) if of.verdict.factor == factor and of.can_test]
        p_values = [measured[n].verdict.p or 0.0 for n in family]
        adjusted.update(zip(family, holm(p_values), strict=True))
    return tuple(
        _decided(replace(of.verdict, p=adjusted[n]), of.model) if n in adjusted else of.verdict
        for n, of in enumerate(measured)
    )


@dataclass(frozen=True)
class _Measured:
    """A claim with its difference, before it is decided."""

    verdict: ClaimVerdict
    model: Model | None = None

    @property
    def can_test(self) -> bool:
        return self.verdict.p is not None


def _measure(analysis: Analysis, claim: Claim) -> _Measured:
    study = analysis.study
    task, category = measure_of(claim, study)
    factor = factor_of(claim, study)
    margin = study.margins[claim.outcome]
    nothing = ClaimVerdict(claim, factor, None, None, margin)
    of_claim = Measured(task, claim.horizon, claim.outcome)
    model = analysis.model(factor, of_claim, (category,) if category else ())
    arms = (*claim.left, *claim.right)
    if model is None or not set(arms) <= set(model.scores.arms):
        return _Measured(nothing)
    sides = [(arm,) for arm in claim.right] if claim.expect == "best" else [claim.right]
    effects = [model.contrast(claim.left, side) for side in sides]
    effect = min(effects, key=lambda of: of.mean)
    found = replace(nothing, effect=effect)
    if claim.expect == "best":
        found = replace(found, best=model.probability_best(claim.left[0], claim.right))
    if claim.effect is not None and not np.isnan(effect.se):
        is_inside = effect.low <= claim.effect <= effect.high
        found = replace(found, source="inside" if is_inside else "excluded")
    if np.isnan(effect.se) or model.least_seeds(arms) < 2:  # it says nothing of seeds
        return _Measured(found)
    p = _p_of_best(effects) if claim.expect == "best" else effect.p(border_of(claim, margin))
    is_small = all(of.within(margin) for of in effects)
    return _Measured(replace(found, p=p, is_small=is_small), model)


def border_of(claim: Claim, margin: float) -> float:
    """The difference on whose one side a claim is true, and on whose other it is not."""
    return -margin if claim.expect == "not lower" else 0.0


def _p_of_best(each: Sequence[Effect]) -> float:
    """Of the best arm the largest p value of its differences, as it must win each (intersection-
    union test); of another the smallest of those it loses, times their number (Bonferroni)."""
    lost = [of.p() for of in each if of.mean < 0]
    return min(1.0, min(lost) * len(each)) if lost else max(of.p() for of in each)


def _decided(found: ClaimVerdict, model: Model | None) -> ClaimVerdict:
    assert found.effect and found.p is not None and model, "only what can be tested is decided"
    claim = found.claim
    if found.p < ALPHA:
        is_above = found.effect.mean > border_of(claim, found.margin)
        holds = is_above != (claim.expect == "lower")
        return replace(found, verdict="replicated" if holds else "contradicted")
    if found.is_small:
        return replace(found, verdict="no effect")
    scores = model.scores
    design = Design(
        len(claim.left),
        1 if claim.expect == "best" else len(claim.right),
        len(scores.arms),
        model.least_seeds((*claim.left, *claim.right)),
        scores.cases,
    )
    return replace(found, needs=needs(model.own, design, found.margin))


def measure_of(claim: Claim, study: Study) -> tuple[Task, str]:
    """The task that a claim measures, and the category, "" for all."""
    measured, _, category = claim.measure.partition(".")
    return next(task for task in study.cases if task == measured), category


def factor_of(claim: Claim, study: Study) -> str:
    """The first factor that has all arms of a claim, of several one that shows its task."""
    arms, (task, _) = {*claim.left, *claim.right}, measure_of(claim, study)
    having = {name: factor for name, factor in study.tables.items() if arms <= set(factor.arms)}
    return next(_showing(having, task), next(iter(having), ACROSS))


def _showing(factors: Mapping[str, Factor], task: Task) -> Iterator[str]:
    return (name for name, factor in factors.items() if task in factor.tasks)
