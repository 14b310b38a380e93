"""What a chat model is asked about pictures, and its answers, which are kept in the store."""

import base64
import hashlib
import io
import json
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError

from flash_ray.evaluation.judges.base import CaseScore
from flash_ray.evaluation.judges.endpoint import Endpoint, Reply, VlmSettings
from flash_ray.storage.s3 import Store

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

logger = logging.getLogger(__name__)

ATTEMPTS = 2  # at an answer that can be parsed
THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL)  # what a model says before it answers
Part = str | np.ndarray  # of a message: text, or a uint8 picture (H, W, 3)
Answer = TypeVar("Answer", bound=BaseModel)

_REPLIES = TypeAdapter(tuple[Reply, ...])


class Answers:
    """Asks for answers of one kind, as JSON; one that cannot be parsed is asked for once more.

    What the model answers is kept in `store` under the digest of everything that it was asked, the
    model's name included, so that the same is asked once, whoever asks. An answer that cannot be
    parsed is not kept.
    """

    def __init__(self, store: Store, settings: VlmSettings, kind: type[BaseModel]):
        self._store, self._settings, self._kind = store, settings, kind

    def ask(
        self, endpoint: Endpoint, instructions: str, parts: Sequence[Part]
    ) -> tuple[Reply, ...]:
        """What the model answers, or answered earlier, in up to `ATTEMPTS` replies.

        Raises:
            UserError: the endpoint cannot be used, or the budget does not suffice.
        """
        key = f"judgments/{self._digest(instructions, parts)}.json"
        if kept := self._kept(key):
            return kept
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": [_sent(part) for part in parts]},
        ]
        replies = [endpoint.ask(messages)]
        while len(replies) < ATTEMPTS and not replies[-1].refused and not self._parsed(replies[-1]):
            replies.append(endpoint.ask(messages))
        if self._parsed(replies[-1]):
            self._store.put_bytes(key, _REPLIES.dump_json(tuple(replies)))
        return tuple(replies)

    def _parsed(self, reply: Reply) -> bool:
        return not reply.refused and parse(reply.text, self._kind) is not None

    def _kept(self, key: str) -> tuple[Reply, ...] | None:
        """What is kept of earlier, if it can be parsed; what is damaged is asked for again."""
        kept = self._store.get_bytes(key)
        if kept is None:
            return None
        try:
            replies = _REPLIES.validate_json(kept)
        except ValidationError:
            logger.warning("%s is corrupt; the judge is asked again", self._store.url(key))
            return None
        return replies if replies and self._parsed(replies[-1]) else None

    def _digest(self, instructions: str, parts: Sequence[Part]) -> str:
        shown = [
            part
            if isinstance(part, str)
            else [part.shape, hashlib.sha256(part.tobytes()).hexdigest()]
            for part in parts
        ]
        content = [self._settings.model, self._settings.parameters, instructions, shown]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parse(text: str | None, kind: type[Answer]) -> Answer | None:
    """The last answer of that kind in the text, wherever it stands; None if there is none.

    A model may think first, aloud or between <think> and </think>, and draft answers as it does:
    only what follows its thoughts counts, and of that what it says last.
    """
    said = THOUGHT.sub("", text or "")
    decoder, answer, start = json.JSONDecoder(), None, said.find("{")
    while start >= 0:
        end = start + 1
        try:
            found, after = decoder.raw_decode(said, start)
        except (ValueError, RecursionError):
            pass  # a brace of its words
        else:
            if read := _answer(found, kind):
                answer, end = read, after
        start = said.find("{", end)
    return answer


def without_answer(replies: Sequence[Reply]) -> CaseScore:
    """No score, and why: the last reply is a refusal, or cannot be parsed."""
    last, details = replies[-1], spent(replies)
    if last.refused:
        return CaseScore(score=None, failure="refused", details=details)
    return CaseScore(score=None, failure="unparsed", details={**details, "text": last.text})


def spent(replies: Sequence[Reply]) -> dict[str, int]:
    """How many replies there are, and their tokens."""
    return {"replies": len(replies), "tokens": sum(reply.tokens for reply in replies)}


def _answer(found: object, kind: type[Answer]) -> Answer | None:
    try:
        return kind.model_validate(found)
    except ValidationError:
        return None


def _sent(part: Part) -> "ChatCompletionContentPartParam":
    if isinstance(part, str):
        return {"type": "text", "text": part}
    buffer = io.BytesIO()
    Image.fromarray(part).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
