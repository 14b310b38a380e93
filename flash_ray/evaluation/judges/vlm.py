"""A vision-language model as a judge: a rubric for each category, answers kept in the store."""

import base64
import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.judges.base import CaseScore, require
from flash_ray.evaluation.judges.endpoint import VlmSettings
from flash_ray.models.endpoint import Budget, Endpoint, Reply, answers
from flash_ray.recipe.schema import Task
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

logger = logging.getLogger(__name__)

ATTEMPTS = 2  # at an answer that can be parsed
Part = str | np.ndarray  # of a message: text, or a uint8 picture (H, W, 3)

_REPLIES = TypeAdapter(tuple[Reply, ...])


def _not_a_truth(value: object) -> object:
    if isinstance(value, bool):  # true is no 1
        raise ValueError("is no number")
    return value


class Answer(BaseModel):
    """What the model has to answer; what else it says is left aside.

    Whole numbers are taken however they are written: 4, 4.0, "4".
    """

    model_config = ConfigDict(frozen=True)
    score: Annotated[int, BeforeValidator(_not_a_truth)] = Field(ge=1, le=5)
    reason: str = ""


class VlmJudge:
    """Asks a model about each picture; an answer that cannot be parsed is no score.

    What the model answers is kept in `store` under the digest of everything that it was asked, the
    model's name included, so that the same is asked once, whoever asks. An answer without a score
    is not kept, and asked for again.
    """

    in_tasks = False  # it waits for an endpoint, and holds a key

    def __init__(self, settings: VlmSettings, store: Store):
        require("openai", "vlm")
        self.name = f"vlm:{settings.model}"
        self._settings, self._store = settings, store

    def can_judge(self, case: Case) -> bool:
        """It judges any case; categories without a rubric by what holds for the whole task."""
        return True

    def judge(self, cases: Sequence[Case], images_BHW3: Sequence[np.ndarray]) -> list[CaseScore]:
        """One score of each uint8 picture (H, W, 3); the budget is that of this call.

        Raises:
            UserError: the endpoint cannot be used, or the budget does not suffice. What was
                answered until then is kept.
        """
        workers = self._settings.concurrency
        with (
            Endpoint(self._settings, Budget(self._settings)) as endpoint,
            ThreadPoolExecutor(workers) as pool,
        ):

            def score(case: Case, image_HW3: np.ndarray) -> CaseScore:
                return score_of(self._replies(endpoint, case, image_HW3))

            return list(pool.map(score, cases, images_BHW3))

    def describe(self, cases: Sequence[Case], scores: Sequence[CaseScore]) -> Mapping[str, Any]:
        """It says nothing of a category beyond means."""
        return {}

    def _replies(self, endpoint: Endpoint, case: Case, image_HW3: np.ndarray) -> tuple[Reply, ...]:
        """What the model answers, or answered earlier, in up to `ATTEMPTS` replies."""
        instructions, parts = rubric(case.task, case.category), message_parts(case, image_HW3)
        key = f"judgments/{self._digest(instructions, parts)}.json"
        if kept := self._kept(key):
            return kept
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": [_sent(part) for part in parts]},
        ]
        replies: list[Reply] = []
        while len(replies) < ATTEMPTS and (not replies or _unparsed(replies[-1])):
            replies.append(endpoint.ask(messages))
        if _has_score(replies[-1]):
            self._store.put_bytes(key, _REPLIES.dump_json(tuple(replies)))
        return tuple(replies)

    def _kept(self, key: str) -> tuple[Reply, ...] | None:
        """What is kept of earlier, if it has a score; what is damaged is asked for again."""
        kept = self._store.get_bytes(key)
        if kept is None:
            return None
        try:
            replies = _REPLIES.validate_json(kept)
        except ValidationError:
            logger.warning("%s is corrupt; the judge is asked again", self._store.url(key))
            return None
        return replies if replies and _has_score(replies[-1]) else None

    def _digest(self, instructions: str, parts: Sequence[Part]) -> str:
        shown = [
            part
            if isinstance(part, str)
            else [part.shape, hashlib.sha256(part.tobytes()).hexdigest()]
            for part in parts
        ]
        content = [self._settings.model, self._settings.parameters, instructions, shown]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rubric(task: Task, category: str) -> str:
    """What the model is told to look at in answers to a category's cases.

    A category that no rubric is written for is judged by the task's own alone.
    """
    texts = _rubrics()
    parts = (texts[task]["all"], texts[task].get(category), texts["answer"])
    return "\n\n".join(part for part in parts if part)


def message_parts(case: Case, image_HW3: np.ndarray) -> list[Part]:
    """What the model is shown: the prompt and the picture, of edits the inputs too."""
    if not case.references:
        return [f"Prompt: {case.prompt}\n\nPicture:", image_HW3]
    inputs = [np.asarray(reference.convert("RGB")) for reference in case.references]
    title = "Input:" if len(inputs) == 1 else "Inputs:"
    return [f"Instruction: {case.prompt}\n\n{title}", *inputs, "Result:", image_HW3]


def parse(text: str | None) -> Answer | None:
    """The last answer in the text, wherever it stands; None if there is none.

    A model may draft answers before that: what it says last counts.
    """
    return [None, *answers(text, _answer)][-1]


def _answer(found: object) -> Answer | None:
    try:
        return Answer.model_validate(found)
    except ValidationError:
        return None


def score_of(replies: Sequence[Reply]) -> CaseScore:
    """The score of the last reply, or why it has none."""
    last = replies[-1]
    details: dict[str, Any] = {"replies": len(replies), "tokens": sum(r.tokens for r in replies)}
    if last.refused:
        return CaseScore(score=None, failure="refused", details=details)
    answer = parse(last.text)
    if answer is None:
        return CaseScore(score=None, failure="unparsed", details={**details, "text": last.text})
    return CaseScore(score=float(answer.score), details={**details, "reason": answer.reason})


def _has_score(reply: Reply) -> bool:
    return not reply.refused and parse(reply.text) is not None


def _unparsed(reply: Reply) -> bool:
    return not reply.refused and parse(reply.text) is None


def _sent(part: Part) -> "ChatCompletionContentPartParam":
    if isinstance(part, str):
        return {"type": "text", "text": part}
    buffer = io.BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


@cache
def _rubrics() -> dict[str, Any]:
    file = resources.files("flash_ray.evaluation.judges") / "rubrics.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))
