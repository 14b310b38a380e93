"""What the records say: verdicts on claims, tables, what scores vary with, and cost, as data for
the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flash_ray.data.select import tasks_of
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.recipe.schema import Task
from flash_ray.studies.baselines import Baselines
from flash_ray.studies.components import Variances, estimate
from flash_ray.studies.costs import ArmCost, TeacherRow, costs_of, teachers_of
from flash_ray.studies.outcomes import Cases, Measured, outcomes_of
from flash_ray.studies.records import Record
from flash_ray.studies.study import Study, Trial
from flash_ray.studies.tables import Table, tables_of
from flash_ray.studies.verdicts import Analysis, ClaimVerdict, verdicts_of


@dataclass(frozen=True)
class Spread:
    """What scores vary with, pooled over all arms: standard deviations.

    Args:
        seeds: of the bench means of trials that differ by their seeds only, with its interval.
        flicker: one trial on one case. arm_case: how well an arm suits a case. Both are means over
            the categories.
    """

    measured: Measured
    df: int
    seeds: tuple[float, float, float]
    flicker: float
    arm_case: float


@dataclass(frozen=True)
class Findings:
    """Everything that a report says in words and numbers.

    Args:
        benchmark, judge: their names; `scale`: what the judge's scores are.
        unscored: cases that some trial has no score of, by task; they are left out for all.
        missing: names of trials without a record.
        diverged: reasons by trial.
    """

    study: Study
    benchmark: str
    judge: str
    scale: str
    records: Mapping[str, Record]
    tables: tuple[Table, ...]
    verdicts: tuple[ClaimVerdict, ...]
    spreads: tuple[Spread, ...]
    costs: tuple[ArmCost, ...]
    teachers: tuple[TeacherRow, ...]
    unscored: Mapping[Task, int]
    missing: tuple[str, ...]
    diverged: Mapping[str, str]

    @property
    def code(self) -> str:
        """The digest of the code that made the records."""
        return next(iter(self.records.values())).code


def compare_arms(
    study: Study,
    cases: Cases,
    trials: Sequence[Trial],
    records: Mapping[str, Record],
    baselines: Baselines | None = None,
) -> Findings:
    """Compares the finished trials; those that are missing or diverged are named.

    Args:
        cases: that the trials were scored on, by task.
        records: by trial, one or more.
        baselines: what the base scores on the same cases, if that is known.
    """
    of_all = list(records.values())
    outcomes = outcomes_of(list(study.arms), cases, of_all, baselines)
    analysis = Analysis(study, outcomes, paired_factors(study, trials))
    trained = {trial.arm: tasks_of(trial.recipe) for trial in trials}
    judge = trials[0].recipe.evaluation.judge_name
    unscored = {task: outcomes.get(Measured(task)) for task in cases}
    return Findings(
        study,
        trials[0].benchmark[0],
        judge,
        load_judge(judge, "judge").scale,
        records,
        tuple(tables_of(analysis, trained)),
        verdicts_of(analysis),
        tuple(_spreads(analysis)),
        tuple(costs_of(list(study.arms), of_all)),
        tuple(teachers_of(list(study.arms), of_all)),
        {task: of.left_out if of else len(cases[task]) for task, of in unscored.items()},
        tuple(trial.name for trial in trials if trial.name not in records),
        {name: record.diverged for name, record in records.items() if record.diverged},
    )


def paired_factors(study: Study, trials: Sequence[Trial]) -> frozenset[str]:
    """The factors whose arms see the same data in the same order under each seed, by their recipes:
    what a seed does to all of them alike cancels."""
    data = {trial.arm: (trial.recipe.data, trial.recipe.tasks) for trial in trials}
    return frozenset(
        name
        for name, factor in study.tables.items()
        if all(data[arm] == data[factor.arms[0]] for arm in factor.arms)
    )


def _spreads(analysis: Analysis) -> Iterator[Spread]:
    for measured, outcome in analysis.outcomes.items():
        found = estimate(outcome.scores, outcome.scores.arms)
        if found.seed_df:
            yield Spread(
                measured,
                found.seed_df,
                _seed_sd(found),
                _mean_sd(found.flicker),
                _mean_sd(found.arm_case),
            )


def _seed_sd(variances: Variances) -> tuple[float, float, float]:
    """The standard deviation over seeds, and its 95 % interval (chi-squared)."""
    from scipy.stats import chi2  # takes half a second

    squares = variances.seed * variances.seed_df
    low, high = chi2.ppf([0.025, 0.975], variances.seed_df)
    return (
        float(np.sqrt(variances.seed)),
        float(np.sqrt(squares / high)),
        float(np.sqrt(squares / low)),
    )


def _mean_sd(variances: Mapping[str, float]) -> float:
    return float(np.sqrt(np.mean(list(variances.values()))))
