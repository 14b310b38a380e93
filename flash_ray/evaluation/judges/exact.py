"""The miniature's exact judge behind the judges' interface."""

from collections.abc import Sequence

import numpy as np

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.scores import BenchScore, judge_bench
from flash_ray.miniature.benchmark import Case


class ExactJudge:
    """Reads pictures of the miniature's world by synthesis, as Ray tasks; never without opinion."""

    name = "exact"

    def judge(self, cases: Sequence[Case], pictures_BHW3: np.ndarray) -> list[CaseScore]:
        """One opinion of each uint8 picture, (cases, 64, 64, 3)."""
        return exact_opinions(cases, judge_bench(cases, pictures_BHW3))


def exact_opinions(cases: Sequence[Case], score: BenchScore) -> list[CaseScore]:
    """The opinions in a bench that was judged already."""
    verdicts = [score.verdicts[case.id] for case in cases]
    return [
        CaseScore(
            score=v.score,
            details={"compliance": v.compliance, "quality": v.quality, "cap": v.cap},
        )
        for v in verdicts
    ]
