"""A vision-language model that compares answers with a reference model's to the same cases."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.answers import Answers, parse, spent, without_answer
from flash_ray.evaluation.judges.base import CaseScore, Runs
from flash_ray.evaluation.judges.choose import require
from flash_ray.evaluation.judges.endpoint import Budget, Endpoint, PairSettings, Reply
from flash_ray.evaluation.judges.vlm import message_parts, rubric
from flash_ray.storage.s3 import Store

OURS, THEIRS = "ours", "the reference's"
OUTCOMES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class PairAnswer(BaseModel):
    """What the model has to answer; what else it says is left aside."""

    model_config = ConfigDict(frozen=True)
    better: Literal["A", "B", "tie"]
    reason: str = ""


class VlmPairJudge:
    """Asks a model which of two answers is better, once in each order.

    A picture wins or loses where the model prefers the same one whatever stands first; everything
    else is a tie, pictures that are equal among it, of which it is not asked. `win`, `tie` and
    `loss` are measures, so that their shares have intervals.

    Args:
        reference_BHW3: the reference model's answers by case id, uint8 (H, W, 3).
    """

    scale = "share of wins, 0 to 1, a tie is half a win"
    runs: Runs = "driver"  # it waits for an endpoint, and holds a key

    def __init__(
        self, settings: PairSettings, store: Store, reference_BHW3: Mapping[str, np.ndarray]
    ):
        require("openai", "vlm")
        self.name = settings.judge_name
        self._settings, self._reference_BHW3 = settings, reference_BHW3
        self._answers = Answers(store, settings, PairAnswer)

    def can_judge(self, case: Case) -> bool:
        """It judges the cases that the reference answered."""
        return case.id in self._reference_BHW3

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3); the budget is that of this call.

        Raises:
            UserError: the endpoint cannot be used, or the budget does not suffice. What was
                answered until then is kept.
        """
        with (
            Endpoint(self._settings, Budget(self._settings)) as endpoint,
            ThreadPoolExecutor(self._settings.concurrency) as pool,
        ):

            def score(case: Case, image_HW3: np.ndarray) -> CaseScore:
                return self._score(endpoint, case, image_HW3)

            return list(pool.map(score, cases, images_BHW3))

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """It says nothing of a category beyond means."""
        return {}

    def _score(self, endpoint: Endpoint, case: Case, image_HW3: np.ndarray) -> CaseScore:
        if not self.can_judge(case):
            return CaseScore(score=None)
        reference_HW3 = self._reference_BHW3[case.id]
        if np.array_equal(image_HW3, reference_HW3):
            return _scored("tie", {"reason": "The two pictures are equal."})
        pictures = {OURS: image_HW3, THEIRS: reference_HW3}
        instructions = rubric(case.task, case.category, self._settings.rubrics, of_pairs=True)
        replies: list[Reply] = []
        preferred, reasons = [], []
        for order in ((OURS, THEIRS), (THEIRS, OURS)):
            shown = {letter: pictures[whose] for letter, whose in zip("AB", order, strict=True)}
            asked = self._answers.ask(endpoint, instructions, message_parts(case, shown))
            replies += asked
            answer = None if asked[-1].refused else parse(asked[-1].text, PairAnswer)
            if answer is None:
                return without_answer(replies)
            preferred.append({"A": order[0], "B": order[1]}.get(answer.better))
            reasons.append(f"A is {order[0]}, better is {answer.better}: {answer.reason}")
        agreed = preferred[0] if preferred[0] == preferred[1] else None
        outcome = {OURS: "win", THEIRS: "loss", None: "tie"}[agreed]
        return _scored(outcome, {**spent(replies), "reason": " ".join(reasons)})


def _scored(outcome: str, details: dict[str, Any]) -> CaseScore:
    measures = {name: float(name == outcome) for name in OUTCOMES}
    return CaseScore(score=OUTCOMES[outcome], measures=measures, details=details)
