"""Judges the pictures of a bench: scores with intervals, by category, and diversity."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from flash_ray.miniature.bench import Case
from flash_ray.miniature.diversity import diversity, diversity_gap
from flash_ray.miniature.edits import Edit
from flash_ray.miniature.judge import Verdict, judge
from flash_ray.recipe.categories import T2I_CATEGORIES

CHUNK = 8  # pictures of one Ray task


@dataclass(frozen=True)
class CategoryScore:
    """Means over the cases of a category.

    Args:
        score: 1 to 5; compliance, quality: 0 to 1.
        diversity: by unstated factor, `distance` to its true distribution and the `floor` that
            true samples have; of edits by "scene category.factor" and free factors only.
        diversity_gap: mean distance minus floor, 0 is as diverse as the world; None if no factor
            is free.
    """

    cases: int
    score: float
    compliance: float
    quality: float
    diversity: dict[str, dict[str, float]]
    diversity_gap: float | None


@dataclass(frozen=True)
class BenchScore:
    """The result of one bench; `interval` is the mean score's 95 % bootstrap interval."""

    score: float
    interval: tuple[float, float]
    compliance: float
    quality: float
    categories: dict[str, CategoryScore]
    verdicts: dict[str, Verdict]  # by case id

    def to_json(self) -> dict[str, Any]:
        """Everything but what the judge fitted to each picture."""
        fields = asdict(self)
        for verdict in fields["verdicts"].values():
            del verdict["fitted"]
        return fields


def judge_bench(
    cases: Sequence[Case], pictures_BHW3: np.ndarray, parallel: bool = True
) -> BenchScore:
    """Judges uint8 pictures, one for each case; `parallel`: as Ray tasks, of a CPU each."""
    verdicts = (_judge_on_ray if parallel else _judge_some)(cases, pictures_BHW3)
    by_category: dict[str, list[tuple[Case, Verdict]]] = defaultdict(list)
    for case, verdict in zip(cases, verdicts, strict=True):
        by_category[case.category].append((case, verdict))
    scores = [verdict.score for verdict in verdicts]
    return BenchScore(
        score=_mean(scores),
        interval=interval(scores),
        compliance=_mean([verdict.compliance for verdict in verdicts]),
        quality=_mean([verdict.quality for verdict in verdicts]),
        categories={name: _category(name, of_it) for name, of_it in by_category.items()},
        verdicts={case.id: verdict for case, verdict in zip(cases, verdicts, strict=True)},
    )


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean (percentile method, 10,000 resamples)."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=10_000, method="percentile", rng=seed
    ).confidence_interval
    return float(found.low), float(found.high)


def difference(ours: BenchScore, theirs: BenchScore) -> tuple[float, tuple[float, float]]:
    """Mean of the case-by-case score differences ours - theirs, and its 95 % interval."""
    if ours.verdicts.keys() != theirs.verdicts.keys():
        raise ValueError("the two scores are of different cases")
    paired = [ours.verdicts[name].score - theirs.verdicts[name].score for name in ours.verdicts]
    return _mean(paired), interval(paired)


def _category(name: str, judged: list[tuple[Case, Verdict]]) -> CategoryScore:
    verdicts = [verdict for _, verdict in judged]
    table = _diversity(name, judged)
    return CategoryScore(
        cases=len(verdicts),
        score=_mean([verdict.score for verdict in verdicts]),
        compliance=_mean([verdict.compliance for verdict in verdicts]),
        quality=_mean([verdict.quality for verdict in verdicts]),
        diversity=table,
        diversity_gap=diversity_gap(table),
    )


def _diversity(name: str, judged: list[tuple[Case, Verdict]]) -> dict[str, dict[str, float]]:
    fitted = [verdict.fitted for _, verdict in judged]
    edits = [case.wanted for case, _ in judged if isinstance(case.wanted, Edit)]
    if not edits:
        return diversity(name, fitted)
    return {
        f"{shown}.{factor}": row
        for shown in T2I_CATEGORIES
        for factor, row in diversity(shown, fitted, edits).items()
    }


def _judge_on_ray(cases: Sequence[Case], pictures_BHW3: np.ndarray) -> list[Verdict]:
    import ray  # takes a second; who only wants an interval needs none

    # Anywhere in the cluster, also where the caller is a trial with a small place of its own.
    task = ray.remote(num_cpus=1, scheduling_strategy="DEFAULT")(_judge_some)
    answers = [
        task.remote(cases[i : i + CHUNK], pictures_BHW3[i : i + CHUNK])
        for i in range(0, len(cases), CHUNK)
    ]
    return [verdict for part in ray.get(answers) for verdict in part]


def _judge_some(cases: Sequence[Case], pictures_BHW3: np.ndarray) -> list[Verdict]:
    pictures_B3HW = pictures_BHW3.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return [judge(picture, case) for picture, case in zip(pictures_B3HW, cases, strict=True)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
