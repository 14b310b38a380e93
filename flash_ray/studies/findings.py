"""What a study found: tables, verdicts, noise and cost, as plain data for every form of report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from flash_ray.evaluation.statistics import Estimate, Scores, common_seeds, difference, mean
from flash_ray.miniature.categories import CATEGORIES
from flash_ray.studies.records import Record
from flash_ray.studies.study import Claim, Study, Trial

AVERAGE = "average"


@dataclass(frozen=True)
class Row:
    """One arm in a table.

    Args:
        cells: by column: the score, and whether it ties with the column's best arm.
        rank: by the average, 1 is best.
        ties: ranks of the arms whose average does not differ from this one's.
        diversity: by category the mean over seeds of the gap to the world's.
    """

    arm: str
    seeds: int
    cells: Mapping[str, tuple[Estimate, bool]]
    rank: int
    ties: tuple[int, ...]
    diversity: Mapping[str, float | None]


@dataclass(frozen=True)
class Table:
    """One factor on one bench."""

    factor: str
    title: str
    bench: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Verdict:
    """What the data say of a claim; `difference` is None where no seed has all its arms."""

    claim: Claim
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True)
class NoiseLevel:
    """How far means of one arm lie apart that differ by their seeds only.

    Args:
        spread: standard deviation over seeds of the bench's average.
        largest: of the differences between means over two groups of `group` seeds each.
    """

    arm: str
    bench: str
    seeds: int
    group: int
    spread: float
    largest: float


@dataclass(frozen=True)
class Findings:
    """Everything that a report says in words and numbers."""

    study: Study
    records: Mapping[str, Record]
    tables: tuple[Table, ...]
    verdicts: tuple[Verdict, ...]
    noise: tuple[NoiseLevel, ...]
    costs: tuple[Mapping[str, Any], ...]
    missing: tuple[str, ...]
    diverged: Mapping[str, str]


def find(study: Study, trials: Sequence[Trial], records: Mapping[str, Record]) -> Findings:
    """Compares the finished trials; those that are missing or diverged are named."""
    own = [r for r in records.values() if r.seed in study.seeds]
    scored = {
        bench: {arm: s for arm in study.arms if (s := _scores(own, arm, bench))}
        for bench in study.benches
    }
    return Findings(
        study,
        records,
        tuple(_tables(study, scored, own)),
        tuple(_verdict(study, claim, scored) for claim in study.claims),
        tuple(_noise(study, records)),
        tuple(_costs(study, own)),
        tuple(trial.name for trial in trials if trial.name not in records),
        {name: record.diverged for name, record in records.items() if record.diverged},
    )


def _scores(records: Sequence[Record], arm: str, bench: str) -> Scores | None:
    """The arm's scores on a bench; None if no trial of it has any."""
    mine = sorted((r for r in records if r.arm == arm and r.scores), key=lambda r: r.seed)
    if not mine:
        return None
    categories = {}
    for category in CATEGORIES[bench]:
        cases = sorted(c for c in mine[0].scores[bench] if c.startswith(f"{category}-"))
        table = [[record.scores[bench][case][0] for case in cases] for record in mine]
        categories[category] = np.array(table)
    return Scores(tuple(record.seed for record in mine), categories)


def _tables(
    study: Study, scored: Mapping[str, Mapping[str, Scores]], records: Sequence[Record]
) -> Iterator[Table]:
    for name, factor in study.tables.items():
        for bench in factor.benches:
            arms = {arm: scored[bench][arm] for arm in factor.arms if arm in scored[bench]}
            columns = (*CATEGORIES[bench], AVERAGE)
            rows = tuple(_rows(arms, bench, columns, records))
            yield Table(name, factor.title, bench, columns, rows)


def _rows(
    arms: Mapping[str, Scores], bench: str, columns: Sequence[str], records: Sequence[Record]
) -> Iterator[Row]:
    parts = {c: CATEGORIES[bench] if c == AVERAGE else (c,) for c in columns}
    means = {arm: {c: mean(s, parts[c]) for c in columns} for arm, s in arms.items()}
    best = {c: max(arms, key=lambda arm: means[arm][c].mean) for c in columns} if arms else {}
    order = sorted(arms, key=lambda arm: -means[arm][AVERAGE].mean)
    for arm, own in arms.items():
        cells = {
            column: (means[arm][column], _tie(own, arms[best[column]], parts[column]))
            for column in columns
        }
        ties = tuple(
            order.index(other) + 1
            for other in order
            if other != arm and _tie(own, arms[other], parts[AVERAGE])
        )
        gaps = [r.diversity[bench] for r in records if r.arm == arm and r.diversity]
        diversity = {
            category: _mean_or_none([gap[category] for gap in gaps])
            for category in CATEGORIES[bench]
        }
        yield Row(arm, len(own.seeds), cells, order.index(arm) + 1, ties, diversity)


def _tie(one: Scores, other: Scores, categories: Sequence[str]) -> bool:
    """Whether the interval of the difference includes 0; an arm ties with itself."""
    if one is other:
        return True
    found = difference([one], [other], categories)
    return found is None or found.includes_zero or np.isnan(found.low)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _verdict(study: Study, claim: Claim, scored: Mapping[str, Mapping[str, Scores]]) -> Verdict:
    bench, _, category = claim.measure.partition(".")
    categories = (category,) if category else CATEGORIES[bench]
    known = scored[bench]
    if any(arm not in known for arm in (*claim.left, *claim.right)):
        return Verdict(claim, None, "undecided")
    left, right = ([known[arm] for arm in arms] for arms in (claim.left, claim.right))
    found = difference(left, right, categories)
    if len(common_seeds([*left, *right])) < 2:  # an interval over cases says nothing of seeds
        return Verdict(claim, found, "undecided")
    return Verdict(claim, found, decide(claim.expect, found, study.margin))


def decide(expect: str, found: Estimate | None, margin: float) -> str:
    """'replicated' if the whole interval of left - right is where the claim has it, 'contradicted'
    if the whole is where the claim has it not, else 'undecided'.

    'higher' is above 0, 'lower' below 0, 'not lower' above -margin.
    """
    if found is None or np.isnan(found.low):
        return "undecided"
    low, high = found.low, found.high
    if expect == "lower":
        low, high = -high, -low
    border = -margin if expect == "not lower" else 0.0
    if low > border:
        return "replicated"
    return "contradicted" if high < border else "undecided"


def _noise(study: Study, records: Mapping[str, Record]) -> Iterator[NoiseLevel]:
    """Of every arm that ran under the noise seeds too."""
    group = len(study.seeds)
    for arm in study.noise.arms:
        for bench in study.benches:
            mine = [r for r in records.values() if r.arm == arm and r.scores]
            averages = [average(record, bench) for record in mine]
            if len(averages) < 2:
                continue
            size = min(group, len(averages) // 2)
            everyone = set(range(len(averages)))
            apart = [
                abs(np.mean([averages[i] for i in one]) - np.mean([averages[i] for i in other]))
                for one in combinations(range(len(averages)), size)
                for other in combinations(sorted(everyone - set(one)), size)
            ]
            spread = float(np.std(averages, ddof=1))
            yield NoiseLevel(arm, bench, len(averages), size, spread, float(max(apart)))


def average(record: Record, bench: str) -> float:
    """A trial's mean over the categories of a bench."""
    by_category = [
        np.mean([s[0] for case, s in record.scores[bench].items() if case.startswith(f"{name}-")])
        for name in CATEGORIES[bench]
    ]
    return float(np.mean(by_category))


def _costs(study: Study, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """What a trial of each arm takes, means over seeds."""
    for arm in study.arms:
        mine = [record for record in records if record.arm == arm and record.cost]
        if not mine:
            continue
        costs = [record.cost for record in mine]
        cells = [use for own in mine[0].data.values() for use in own.values()]
        passes = [use["passes"] for use in cells]
        yield {
            "arm": arm,
            "updates": mine[0].updates,
            "images": costs[0].images,
            "unique": int(sum(use["unique"] for use in cells)),
            "passes": (min(passes), max(passes)),
            "teacher_calls": float(np.mean([cost.teacher_calls for cost in costs])),
            "compute": float(np.mean([cost.compute for cost in costs])),
            "unit": costs[0].unit,
        }
