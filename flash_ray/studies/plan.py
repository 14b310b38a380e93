"""Plans a study from the records of another: its hours, and what each claim could find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flash_ray.recipe import Recipe
from flash_ray.recipe.schema import Task
from flash_ray.studies.components import Variances, estimate
from flash_ray.studies.outcomes import Measured, Outcome
from flash_ray.studies.power import Design, detectable, power_of_effect, power_of_no_effect
from flash_ray.studies.records import Record
from flash_ray.studies.study import Claim, Study, Trial
from flash_ray.studies.verdicts import measure_of

SEEDS, TIMES = (2, 3, 4, 6, 8), (0.5, 1, 2, 4, 8)  # numbers of seeds, multiples of the cases
MOST_CASES = 1000  # of a category


@dataclass(frozen=True)
class ClaimPower:
    """What a study of some size could say of a claim.

    Args:
        detectable: the smallest true difference that is found in 80 % of such studies.
        no_effect: how probably "no effect of δ or more" is concluded where there is none.
        effect: how probably an effect of the size that the source reports is found; None if it
            reports none.
    """

    detectable: float
    no_effect: float
    effect: float | None


@dataclass(frozen=True)
class Option:
    """A size that the study could have.

    Args:
        cases: of each category, by task.
        hours: of all trials.
        powers: of each claim, in the study's order; None where the pilot measured nothing alike.
        reached: claims whose detectable difference is at most δ.
    """

    seeds: int
    cases: Mapping[Task, int]
    hours: float
    powers: tuple[ClaimPower | None, ...]
    reached: int


@dataclass(frozen=True)
class Plan:
    """What a study would take, and find.

    Args:
        own: the size that its file says.
        options: sizes, the cheapest first.
        proposed: the cheapest of those by which the most claims reach δ.
    """

    study: Study
    at_once: int
    own: Option
    options: tuple[Option, ...]
    proposed: Option


@dataclass(frozen=True)
class Pace:
    """How fast trials of a pilot were, in seconds.

    Args:
        image: for a sample of the student in training.
        picture: for one that is drawn and judged, with the start of the trial and its end spread
            over all of them: too much where a study has more cases than its pilot.
    """

    image: float
    picture: float


def pace_of(records: Sequence[Record], noises: int) -> Pace | None:
    """The pace of finished trials; None if none says how long it took.

    Args:
        noises: pictures of each prompt whose diversity was measured.
    """
    timed = [(record, record.cost) for record in records if record.cost]
    timed = [(record, cost) for record, cost in timed if cost.total_seconds > 0]
    if not timed:
        return None
    pictures = [_pictures_of(record, noises) for record, _ in timed]
    rest = [max(0.0, cost.total_seconds - cost.seconds) for _, cost in timed]
    trained = sum(cost.seconds for _, cost in timed), sum(cost.images for _, cost in timed)
    return Pace(trained[0] / max(trained[1], 1), sum(rest) / max(sum(pictures), 1))


def _pictures_of(record: Record, noises: int) -> int:
    scored = [*record.scores.values(), *record.early.values()]
    return sum(map(len, scored)) + noises * sum(map(len, record.diversity.values()))


def plan_study(
    study: Study,
    trials: Sequence[Trial],
    outcomes: Mapping[Measured, Outcome],
    pace: Pace,
    at_once: int,
) -> Plan:
    """Sizes of the study with their hours and powers.

    Args:
        outcomes: of the pilot.
        at_once: trials that run at the same time.
    """
    own_cases, own_seeds = dict(study.cases), len(study.seeds)
    variances = [_variances(study, claim, outcomes) for claim in study.claims]
    options = {}
    for times in TIMES:
        cases = {task: max(2, round(count * times)) for task, count in own_cases.items()}
        counted = _counted(trials[0], cases)
        if counted is None:
            continue
        for seeds in sorted({*SEEDS, own_seeds}):
            powers = tuple(_powers(study, seeds, counted, variances))
            hours = _hours(study, trials, seeds, counted, pace) / at_once
            pairs = zip(study.claims, powers, strict=True)
            reached = sum(
                power is not None and power.detectable <= study.margins[claim.outcome]
                for claim, power in pairs
            )
            options[seeds, times] = Option(seeds, cases, hours, powers, reached)
    ordered = sorted(options.values(), key=lambda option: option.hours)
    proposed = max(ordered, key=lambda option: option.reached)  # of equal ones the first
    return Plan(study, at_once, options[own_seeds, 1], tuple(ordered), proposed)


def _counted(trial: Trial, cases: Mapping[Task, int]) -> dict[Task, dict[str, int]] | None:
    """How many cases each category has then, by task; None if the benchmark has fewer."""
    if max(cases.values()) > MOST_CASES:
        return None
    scored = replace(trial, cases=cases).scored_cases()
    counted = {
        task: dict(Counter(case.category for case in of_task)) for task, of_task in scored.items()
    }
    has_fewer = any(max(counted[task].values(), default=0) < count for task, count in cases.items())
    return None if has_fewer and cases != trial.cases else counted


def _variances(
    study: Study, claim: Claim, outcomes: Mapping[Measured, Outcome]
) -> Variances | None:
    """The variances of what a claim measures, over all arms of the pilot; those of the end, if it
    has none of the early horizon. None if it has not measured it."""
    task, category = measure_of(claim, study)
    wanted = [Measured(task, horizon, claim.outcome) for horizon in (claim.horizon, "late")]
    outcome = next((outcomes[of] for of in wanted if of in outcomes), None)
    if outcome is None:
        return None
    names = [category] if category else list(outcome.scores.categories)
    if not set(names) <= set(outcome.scores.categories):
        return None
    return estimate(outcome.scores.of(outcome.scores.arms, names), outcome.scores.arms)


def _powers(
    study: Study,
    seeds: int,
    counted: Mapping[Task, Mapping[str, int]],
    variances: Sequence[Variances | None],
) -> Iterator[ClaimPower | None]:
    for claim, found in zip(study.claims, variances, strict=True):
        if found is None:
            yield None
            continue
        task, _ = measure_of(claim, study)
        cases = {name: counted[task].get(name, 0) for name in found.cases}
        if claim.outcome == "diversity" and study.diversity:
            cases = {name: min(n, study.diversity.prompts) for name, n in cases.items()}
        right = 1 if claim.expect == "best" else len(claim.right)
        design = Design(len(claim.left), right, len(study.arms), seeds, cases)
        se, df = design.standard_error(found)
        if not se > 0:  # one case of a category, or scores that never differ
            yield None
            continue
        effect = None if claim.effect is None else power_of_effect(se, df, claim.effect)
        margin = study.margins[claim.outcome]
        yield ClaimPower(detectable(se, df), power_of_no_effect(se, df, margin), effect)


def _hours(
    study: Study,
    trials: Sequence[Trial],
    seeds: int,
    counted: Mapping[Task, Mapping[str, int]],
    pace: Pace,
) -> float:
    """Hours of all trials one after the other."""
    pictures = sum(sum(of_task.values()) for of_task in counted.values())
    pictures *= 2 if study.early else 1
    if study.diversity:
        prompts = sum(len(of_task) for of_task in counted.values()) * study.diversity.prompts
        pictures += prompts * study.diversity.noises
    arms = {trial.arm: trial.recipe for trial in trials}
    images = float(np.mean([_images(recipe) for recipe in arms.values()]))
    return len(arms) * seeds * (images * pace.image + pictures * pace.picture) / 3600


def _images(recipe: Recipe) -> int:
    """Samples of the student in a run."""
    runtime = recipe.runtime
    batch = runtime.max_workers * runtime.micro_batch_size * runtime.gradient_accumulation_steps
    return recipe.training.iterations * batch
