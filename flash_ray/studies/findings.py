"""What the records say: tables, verdicts on claims, noise and cost, as data for the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.choose import load_judge
from flash_ray.evaluation.statistics import (
    Estimate,
    Scores,
    common_seeds,
    difference,
    mean,
)
from flash_ray.recipe.schema import Task
from flash_ray.studies.baselines import BaselineRow, Baselines, BaseScores, base_scores, closed
from flash_ray.studies.records import Record, TeacherMeans
from flash_ray.studies.study import Claim, Study, Trial

AVERAGE = "average"
Cases = Mapping[Task, Sequence[Case]]
ArmScores = Mapping[Task, Mapping[str, Scores]]


@dataclass(frozen=True)
class Row:
    """One arm in a table.

    Args:
        cells: by column: the score, and whether it ties with the column's best arm.
        rank: by the average, 1 is best.
        ties: ranks of the arms whose average does not differ from this one's.
        diversity: by category the mean over seeds of the judge's diversity gap; {} if it has none.
        closed: the share of the gap between untrained base and teacher that the arm closes; None
            where the teacher is not better beyond chance, or the two were not scored.
    """

    arm: str
    seeds: int
    cells: Mapping[str, tuple[Estimate, bool]]
    rank: int
    ties: tuple[int, ...]
    diversity: Mapping[str, float | None]
    closed: Estimate | None = None


@dataclass(frozen=True)
class Table:
    """One factor on one task."""

    factor: str
    title: str
    task: Task
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    baselines: tuple[BaselineRow, ...] = ()


@dataclass(frozen=True)
class ClaimVerdict:
    """What the data say of a claim; `difference` is None where no seed has all its arms."""

    claim: Claim
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True)
class NoiseLevel:
    """How far means of one arm lie apart that differ by their seeds only.

    Args:
        spread: standard deviation over seeds of the task's average.
        largest: of the differences between means over two groups of `group` seeds each.
    """

    arm: str
    task: Task
    seeds: int
    group: int
    spread: float
    largest: float


@dataclass(frozen=True)
class ArmCost:
    """What a trial of an arm takes, means over seeds.

    Args:
        unique: different training cases of all categories.
        passes: the fewest and the most over the categories.
        compute: of `unit`, of all workers, without teachers.
    """

    arm: str
    iterations: int
    images: int
    unique: int
    passes: tuple[float, float]
    teacher_calls: float
    compute: float
    unit: str


@dataclass(frozen=True)
class TeacherRow:
    """One teacher of an arm at one rung (from 1), means over seeds."""

    arm: str
    teacher: str
    rung: int
    means: TeacherMeans


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
    noise: tuple[NoiseLevel, ...]
    costs: tuple[ArmCost, ...]
    teachers: tuple[TeacherRow, ...]
    unscored: Mapping[Task, int]
    missing: tuple[str, ...]
    diverged: Mapping[str, str]


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
        records: by trial.
        baselines: what the base scores on the same cases, if that is known.
    """
    counted = _counted(cases, list(records.values()))
    of_seeds = [record for record in records.values() if record.seed in study.seeds]
    scores = {
        task: {arm: s for arm in study.arms if (s := _scores(of_seeds, arm, task, counted[task]))}
        for task in counted
    }
    judge = trials[0].recipe.evaluation.judge_name
    return Findings(
        study,
        trials[0].benchmark[0],
        judge,
        load_judge(judge, "judge").scale,
        records,
        tuple(_tables(study, scores, of_seeds, base_scores(baselines, counted))),
        tuple(_verdict(study, claim, scores) for claim in study.claims),
        tuple(_noise(study, counted, records)),
        tuple(_costs(study, of_seeds)),
        tuple(_teachers(study, of_seeds)),
        {task: len(cases[task]) - len(counted[task]) for task in cases},
        tuple(trial.name for trial in trials if trial.name not in records),
        {name: record.diverged for name, record in records.items() if record.diverged},
    )


def _counted(cases: Cases, records: Sequence[Record]) -> dict[Task, list[Case]]:
    """The cases that every record with scores has a score of, as all arms answer the same ones."""
    scored = [record for record in records if record.scores]
    return {
        task: [
            case
            for case in cases[task]
            if all(record.case_score(task, case.id) is not None for record in scored)
        ]
        for task in cases
    }


def _scores(
    records: Sequence[Record], arm: str, task: Task, cases: Sequence[Case]
) -> Scores | None:
    """The arm's scores on a task; None if no trial of it has any."""
    of_arm = sorted((r for r in records if r.arm == arm and r.scores), key=lambda r: r.seed)
    if not of_arm or not cases:
        return None
    categories: dict[str, list[str]] = {}
    for case in cases:
        categories.setdefault(case.category, []).append(case.id)
    tables_SC = {
        category: np.array([[r.scores[task][case].score for case in ids] for r in of_arm])
        for category, ids in categories.items()
    }
    return Scores(tuple(record.seed for record in of_arm), tables_SC)


def _tables(
    study: Study,
    scores: ArmScores,
    records: Sequence[Record],
    base: Mapping[Task, BaseScores],
) -> Iterator[Table]:
    for name, factor in study.tables.items():
        for task in factor.tasks:
            arms = {arm: scores[task][arm] for arm in factor.arms if arm in scores[task]}
            if not arms:
                continue
            categories = tuple(next(iter(arms.values())).categories)
            rows = tuple(_rows(arms, task, categories, records))
            beside = []
            if task in base:
                rows = tuple(replace(row, closed=closed(arms[row.arm], base[task])) for row in rows)
                parts = _parts(categories)
                beside = [
                    BaselineRow(each, nfe, {c: mean(of, parts[c]) for c in parts})
                    for each, (nfe, of) in base[task].items()
                ]
            columns = (*categories, AVERAGE)
            yield Table(name, factor.title, task, columns, rows, tuple(beside))


def _parts(categories: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The categories that each column is of."""
    return {**{category: (category,) for category in categories}, AVERAGE: tuple(categories)}


def _rows(
    arms: Mapping[str, Scores], task: Task, categories: Sequence[str], records: Sequence[Record]
) -> Iterator[Row]:
    parts = _parts(categories)
    means = {arm: {c: mean(s, parts[c]) for c in parts} for arm, s in arms.items()}
    best = {column: max(arms, key=lambda arm: means[arm][column].mean) for column in parts}
    order = sorted(arms, key=lambda arm: -means[arm][AVERAGE].mean)
    for arm, scores in arms.items():
        cells = {
            column: (means[arm][column], _tie(scores, arms[best[column]], parts[column]))
            for column in parts
        }
        ties = tuple(
            order.index(other) + 1
            for other in order
            if other != arm and _tie(scores, arms[other], parts[AVERAGE])
        )
        yield Row(arm, len(scores.seeds), cells, order.index(arm) + 1, ties, {})


def _tie(left: Scores, right: Scores, categories: Sequence[str]) -> bool:
    """Whether the interval of the difference includes 0; an arm ties with itself."""
    if left is right:
        return True
    estimate = difference([left], [right], categories)
    return estimate is None or estimate.includes_zero or bool(np.isnan(estimate.low))


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean without what is None; None if nothing is left."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _verdict(study: Study, claim: Claim, scores: ArmScores) -> ClaimVerdict:
    measured, _, category = claim.measure.partition(".")
    arms = next(of_arms for task, of_arms in scores.items() if task == measured)
    if any(arm not in arms for arm in (*claim.left, *claim.right)):
        return ClaimVerdict(claim, None, "undecided")
    left, right = ([arms[name] for name in names] for names in (claim.left, claim.right))
    categories = (category,) if category else tuple(left[0].categories)
    if not set(categories) <= set(left[0].categories):  # none of its cases has a score
        return ClaimVerdict(claim, None, "undecided")
    estimate = difference(left, right, categories)
    if len(common_seeds([*left, *right])) < 2:  # an interval over cases says nothing of seeds
        return ClaimVerdict(claim, estimate, "undecided")
    return ClaimVerdict(claim, estimate, decide(claim.expect, estimate, study.margin))


def decide(expect: str, estimate: Estimate | None, margin: float) -> str:
    """'replicated' if the whole interval of left - right is where the claim has it, 'contradicted'
    if the whole is where the claim has it not, else 'undecided'.

    'higher' is above 0, 'lower' below 0, 'not lower' above -margin.
    """
    if estimate is None or np.isnan(estimate.low):
        return "undecided"
    low, high = estimate.low, estimate.high
    if expect == "lower":
        low, high = -high, -low
    border = -margin if expect == "not lower" else 0.0
    if low > border:
        return "replicated"
    return "contradicted" if high < border else "undecided"


def _noise(study: Study, cases: Cases, records: Mapping[str, Record]) -> Iterator[NoiseLevel]:
    """The noise of every arm that ran under the noise seeds too."""
    for arm in study.noise.arms:
        for task in cases:
            of_arm = [r.averages({task: cases[task]}) for r in records.values() if r.arm == arm]
            averages = [scores[task] for scores in of_arm if task in scores]
            if len(averages) < 2:
                continue
            size = min(len(study.seeds), len(averages) // 2)
            everyone = set(range(len(averages)))
            apart = [
                abs(np.mean([averages[i] for i in left]) - np.mean([averages[i] for i in right]))
                for left in combinations(range(len(averages)), size)
                for right in combinations(sorted(everyone - set(left)), size)
            ]
            spread = float(np.std(averages, ddof=1))
            yield NoiseLevel(arm, task, len(averages), size, spread, float(max(apart)))


def _costs(study: Study, records: Sequence[Record]) -> Iterator[ArmCost]:
    for arm in study.arms:
        of_arm = [record for record in records if record.arm == arm]
        costs = [record.cost for record in of_arm if record.cost]
        if not costs:
            continue
        uses = [use for categories in of_arm[0].data.values() for use in categories.values()]
        passes = [use.passes for use in uses]
        yield ArmCost(
            arm,
            of_arm[0].iterations,
            costs[0].images,
            sum(use.unique for use in uses),
            (min(passes), max(passes)),
            float(np.mean([cost.teacher_calls for cost in costs])),
            float(np.mean([cost.compute for cost in costs])),
            costs[0].unit,
        )


def _teachers(study: Study, records: Sequence[Record]) -> Iterator[TeacherRow]:
    """Rows for each arm with several teachers, or one that is not the base, by rung."""
    for arm in study.arms:
        runs = [record.teachers for record in records if record.arm == arm and record.teachers]
        if not runs or set(runs[0]) == {"base"}:
            continue
        for teacher in runs[0]:
            for rung in sorted(runs[0][teacher]):
                cells = [run[teacher][rung] for run in runs if rung in run.get(teacher, {})]
                means = TeacherMeans(
                    weight=sum(cell.weight for cell in cells) / len(cells),
                    norm=mean_of_known([cell.norm for cell in cells]),
                    cosine=mean_of_known([cell.cosine for cell in cells]),
                )
                yield TeacherRow(arm, teacher, rung, means)
