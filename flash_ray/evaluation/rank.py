"""Ranks models by the mean of the judges' averages, as the paper does, with paired intervals.

Judges that score on different scales are standardized before: a judge's scores are taken as
deviations from their mean over all results and cases, in standard deviations of these.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.base import JudgeResult
from flash_ray.evaluation.statistics import interval
from flash_ray.recipe.plain import read_bytes
from flash_ray.recipe.schema import Task

Estimate = tuple[float, tuple[float, float]]  # a mean and its 95 % bootstrap interval


class Result(BaseModel):
    """What ranking needs of a file of `flash-ray evaluate --out`; the rest is left alone."""

    model_config = ConfigDict(frozen=True, strict=True)
    model: str
    benchmark: str
    benchmark_digest: str
    task: Task
    judges: dict[str, JudgeResult] = Field(min_length=1)

    @property
    def cases(self) -> list[str]:
        """The ids of the cases, in order."""
        return sorted(next(iter(self.judges.values())).cases)

    @model_validator(mode="after")
    def _same_cases(self) -> Self:
        if any(sorted(judged.cases) != self.cases for judged in self.judges.values()):
            raise ValueError("the judges were given different cases")
        return self


@dataclass(frozen=True)
class Standing:
    """Where one result ranks.

    Args:
        averages: by judge, over the cases that count, on the judge's own scale.
        mean: of the judges' averages, standardized where their scales differ.
        lead: over the next in rank, None for the last one.
    """

    file: str
    model: str
    rank: int
    averages: Mapping[str, Estimate]
    mean: Estimate
    lead: Estimate | None

    @property
    def ties(self) -> bool:
        """Whether the lead's interval includes 0."""
        return self.lead is not None and self.lead[1][0] <= 0 <= self.lead[1][1]


@dataclass(frozen=True)
class Ranking:
    """Standings, the best first.

    Args:
        scales: by judge, in words.
        cases: how many there are; `counted`, by judge: those that have a score in every result.
        failures: by judge and kind, missing scores in all results, e.g. {"unparsed": 2}.
    """

    benchmark: str
    task: Task
    scales: Mapping[str, str]
    cases: int
    counted: Mapping[str, int]
    failures: Mapping[str, Mapping[str, int]]
    standings: tuple[Standing, ...]

    @property
    def standardized(self) -> bool:
        """Whether the judges' scales differ, so that means of them are of standardized scores."""
        return len(set(self.scales.values())) > 1


def read_results(files: Sequence[Path]) -> dict[str, Result]:
    """The results by file name as given.

    Raises:
        UserError: fewer than two different files, one that is no result, or results of different
            benchmarks, tasks, cases or judges.
    """
    if len(set(files)) < 2 or len(set(files)) < len(files):
        raise UserError(
            f"RESULT: {len(files)} files, {len(set(files))} different; allowed: two or more, each "
            "once; give the files that `flash-ray evaluate --out` wrote"
        )
    results = {str(file): _read(file) for file in files}
    (first_file, first), *others = results.items()
    for file, other in others:
        if unlike := _unlike(first, other):
            raise UserError(
                f"RESULT: {first_file} and {file} differ in their {unlike}; allowed: results of "
                "the same benchmark, task, cases and judges; evaluate one of them again"
            )
    return results


def rank(results: Mapping[str, Result]) -> Ranking:
    """Ranks results that `read_results` accepted.

    A case counts for a judge where it has a score in every result.

    Raises:
        UserError: fewer than two cases count for a judge.
    """
    first = next(iter(results.values()))
    table_MJC = np.array([_scores(result, first.judges) for result in results.values()])
    counts_JC = ~np.isnan(table_MJC).any(axis=0)
    counted = dict(zip(first.judges, counts_JC.sum(axis=1).tolist(), strict=True))
    for judge, count in counted.items():
        if count < 2:
            raise UserError(
                f"RESULT: judge {judge} has a score in every result of {count} cases; allowed: "
                "2 or more; evaluate more cases (--cases), or without that judge"
            )
    scales = {name: judged.scale for name, judged in first.judges.items()}
    alike = len(set(scales.values())) == 1
    values_MC = _values(table_MJC if alike else _standardized(table_MJC, counts_JC), counts_JC)
    order = np.argsort(-values_MC.mean(axis=1), kind="stable")
    standings = []
    for position, index in enumerate(order):
        file, result = list(results.items())[index]
        averages = {
            judge: _estimate(table_MJC[index, j, counts_JC[j]])
            for j, judge in enumerate(first.judges)
        }
        follower = order[position + 1] if position + 1 < len(order) else None
        lead = None if follower is None else _estimate(values_MC[index] - values_MC[follower])
        mean = _estimate(values_MC[index])
        standings.append(Standing(file, result.model, position + 1, averages, mean, lead))
    failures = {
        judge: Counter(
            kind for result in results.values() for kind in result.judges[judge].failures
        )
        for judge in first.judges
    }
    return Ranking(
        first.benchmark,
        first.task,
        scales,
        table_MJC.shape[2],
        counted,
        failures,
        tuple(standings),
    )


def _values(table_MJC: np.ndarray, counts_JC: np.ndarray) -> np.ndarray:
    """(models, cases), each row's mean the mean of the judges' averages.

    Where every case counts for every judge, a value is the mean of the judges' scores of that case.
    Where a judge has fewer cases each of them weighs the more, as a deviation from its average:
    what one case adds to the mean of averages, to first order (its influence function). Resampling
    cases then keeps all judges' scores of a case, and pairs of models, together.
    """
    counts_J1 = counts_JC.sum(axis=1, keepdims=True)
    known_MJC = np.where(counts_JC, table_MJC, 0)
    averages_MJ1 = known_MJC.sum(axis=2, keepdims=True) / counts_J1
    apart_MJC = np.where(counts_JC, table_MJC - averages_MJ1, 0)
    return (averages_MJ1 + apart_MJC * table_MJC.shape[2] / counts_J1).mean(axis=1)


def _standardized(table_MJC: np.ndarray, counts_JC: np.ndarray) -> np.ndarray:
    """Each judge's scores less their mean, over their standard deviation; all equal ones are 0."""
    scaled_MJC = np.full_like(table_MJC, np.nan)
    for judge, counts_C in enumerate(counts_JC):
        values_MC = table_MJC[:, judge, counts_C]
        spread = values_MC.std() or 1.0
        scaled_MJC[:, judge, counts_C] = (values_MC - values_MC.mean()) / spread
    return scaled_MJC


def _estimate(values: np.ndarray) -> Estimate:
    return float(np.mean(values)), interval(values)


def _scores(result: Result, judges: Iterable[str]) -> list[list[float]]:
    """Scores by judge and case, NaN where there is none."""
    return [
        [np.nan if (score := cases[name].score) is None else score for name in result.cases]
        for cases in (result.judges[judge].cases for judge in judges)
    ]


def _unlike(one: Result, other: Result) -> str | None:
    for field in ("benchmark", "benchmark_digest", "task"):
        if (left := getattr(one, field)) != (right := getattr(other, field)):
            return f"{field} ({left}, {right})"
    if one.judges.keys() != other.judges.keys():
        return f"judges ({', '.join(one.judges)}; {', '.join(other.judges)})"
    scales = [{name: judged.scale for name, judged in r.judges.items()} for r in (one, other)]
    if scales[0] != scales[1]:
        return f"judges' scales ({'; '.join(scales[0].values())} | {'; '.join(scales[1].values())})"
    if one.cases != other.cases:
        return f"cases ({len(one.cases)}, {len(other.cases)})"
    return None


def _read(file: Path) -> Result:
    try:
        return Result.model_validate_json(read_bytes(file))
    except OSError as error:
        raise UserError(f"RESULT: {file}: {error.strerror}; check the name") from None
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"RESULT: {file} is no result{f' ({field})' if field else ''}; allowed: a file that "
            "`flash-ray evaluate --out` wrote; evaluate again"
        ) from None
