"""Has a judge score answers to a benchmark, by Ray tasks where it may; pairs two results."""

from collections.abc import Sequence

import numpy as np

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore, Judge, JudgeResult, summarize
from flash_ray.evaluation.statistics import interval

CHUNK = 8  # pictures of one Ray task


def score_answers(
    judge: Judge, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray], in_tasks: bool = True
) -> JudgeResult:
    """Judges uint8 pictures (H, W, 3), one for each case.

    Args:
        in_tasks: as Ray tasks of a CPU each, if the judge allows it; else in this process.

    Raises:
        UserError: the judge cannot be used.
    """
    if in_tasks and judge.in_tasks:
        scores = _score_in_tasks(judge, cases, images_BHW3)
    else:
        scores = judge.judge(cases, images_BHW3)
    return summarize(judge, cases, scores)


def difference(ours: JudgeResult, theirs: JudgeResult) -> tuple[float, tuple[float, float]]:
    """Subtracts scores case by case, ours - theirs: the mean difference and its 95 % interval.

    Raises:
        ValueError: the two are of different cases, or no case has a score in both.
    """
    if ours.cases.keys() != theirs.cases.keys():
        raise ValueError("the two results are of different cases")
    pairs = [(ours.cases[name].score, theirs.cases[name].score) for name in ours.cases]
    paired = [left - right for left, right in pairs if left is not None and right is not None]
    if not paired:
        raise ValueError("no case has a score in both results")
    return float(np.mean(paired)), interval(paired)


def _score_in_tasks(
    judge: Judge, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]
) -> list[CaseScore]:
    import ray  # takes a second; who only wants a difference needs none

    # Anywhere in the cluster, also where the caller is a trial that holds few CPUs.
    task = ray.remote(num_cpus=1, scheduling_strategy="DEFAULT")(_judge)
    parts = [
        task.remote(judge, cases[i : i + CHUNK], images_BHW3[i : i + CHUNK])
        for i in range(0, len(cases), CHUNK)
    ]
    return [score for part in ray.get(parts) for score in part]


def _judge(
    judge: Judge, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]
) -> list[CaseScore]:
    return judge.judge(cases, images_BHW3)
