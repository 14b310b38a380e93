"""A vision-language model as a judge: it scores each picture by a rubric for its category."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.answers import Answers, Part, parse, spent, without_answer
from flash_ray.evaluation.judges.base import FIVE, CaseScore, Runs
from flash_ray.evaluation.judges.choose import require
from flash_ray.evaluation.judges.endpoint import Budget, Endpoint, Reply, VlmSettings
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store


def _not_a_truth(value: object) -> object:
    if isinstance(value, bool):  # true is no 1
        raise ValueError("is no number")
    return value


class ScoreAnswer(BaseModel):
    """What the model has to answer; what else it says is left aside.

    Whole numbers are taken however they are written: 4, 4.0, "4".
    """

    model_config = ConfigDict(frozen=True)
    score: Annotated[int, BeforeValidator(_not_a_truth)] = Field(ge=1, le=5)
    reason: str = ""


class VlmJudge:
    """Asks a model about each picture; an answer that cannot be parsed is no score."""

    scale = FIVE
    runs: Runs = "driver"  # it waits for an endpoint, and holds a key

    def __init__(self, settings: VlmSettings, store: Store):
        require("openai", "vlm")
        self.name = settings.judge_name
        self._settings, self._answers = settings, Answers(store, settings, ScoreAnswer)

    def can_judge(self, case: Case) -> bool:
        """It judges any case; categories without a rubric by what holds for the whole task."""
        return True

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3); the budget is that of this call.

        Raises:
            UserError: the endpoint cannot be used, or the budget does not suffice. What was
                answered until then is kept.
        """
        settings = self._settings
        with (
            Endpoint(settings, Budget(settings)) as endpoint,
            ThreadPoolExecutor(settings.concurrency) as pool,
        ):

            def score(case: Case, image_HW3: np.ndarray) -> CaseScore:
                instructions = rubric(case.task, case.category, settings.rubrics)
                title = "Result" if case.references else "Picture"
                parts = message_parts(case, {title: image_HW3})
                return score_of(self._answers.ask(endpoint, instructions, parts))

            return list(pool.map(score, cases, images_BHW3))

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """It says nothing of a category beyond means."""
        return {}


def rubric(
    task: Task, category: str, own: Mapping[Task, Mapping[str, str]], of_pairs: bool = False
) -> str:
    """What the model is told to look at in answers to a category's cases.

    A category that no rubric is written for is judged by the task's own alone.

    Args:
        own: rubrics of the user's by task and category, or `all`; they go before ours.
        of_pairs: whether two answers are compared.
    """
    texts = _rubrics()
    of_all = texts["pairs"][task] if of_pairs else texts[task]["all"]
    chosen = {**texts[task], "all": of_all, **own.get(task, {})}
    answer = texts["pairs"]["answer"] if of_pairs else texts["answer"]
    return "\n\n".join(part for part in (chosen["all"], chosen.get(category), answer) if part)


def message_parts(case: Case, shown: Mapping[str, np.ndarray]) -> list[Part]:
    """What the model is shown: the prompt, of edits the inputs, and pictures with their titles."""
    parts: list[Part] = [f"{'Instruction' if case.references else 'Prompt'}: {case.prompt}"]
    if case.references:
        parts.append("Input:" if len(case.references) == 1 else "Inputs:")
        parts += [np.asarray(reference.convert("RGB")) for reference in case.references]
    for title, image_HW3 in shown.items():
        parts += [f"{title}:", image_HW3]
    return parts


def score_of(replies: Sequence[Reply]) -> CaseScore:
    """The score of the last reply, or why it has none."""
    last = replies[-1]
    answer = None if last.refused else parse(last.text, ScoreAnswer)
    if answer is None:
        return without_answer(replies)
    return CaseScore(score=float(answer.score), details={**spent(replies), "reason": answer.reason})


@cache
def _rubrics() -> dict[str, Any]:
    file = resources.files("flash_ray.evaluation.judges") / "rubrics.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))
