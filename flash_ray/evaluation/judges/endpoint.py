"""Asks a chat endpoint within a budget; what goes wrong is one line that holds no key."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Any, Self

from flash_ray.errors import UserError
from flash_ray.evaluation.judges.vlm_settings import VlmSettings
from flash_ray.recipe.schema import Section

RETRIES = 3  # of one question, after 408, 409, 429, 5xx and lost connections
FILTERED = ("content_filter", "content_policy_violation")


class Reply(Section):
    """What the model said; `tokens` counts question and answer, 0 where the endpoint does not."""

    text: str | None
    refused: bool
    tokens: int


class Budget:
    """Counts what one evaluation spends; safe to share between threads."""

    def __init__(self, settings: VlmSettings):
        self._settings = settings
        self._lock = Lock()
        self.requests = self.tokens = 0

    def request(self) -> None:
        """Counts a request that is about to be sent.

        Raises:
            UserError: it would be one too many.
        """
        limits = self._settings
        with self._lock:
            if self.requests >= limits.max_requests:
                self._refuse("max_requests", limits.max_requests)
            if limits.max_tokens is not None and self.tokens >= limits.max_tokens:
                self._refuse("max_tokens", limits.max_tokens)
            self.requests += 1

    def used(self, tokens: int) -> None:
        """Counts an answer's tokens."""
        with self._lock:
            self.tokens += tokens

    def _refuse(self, field: str, limit: int) -> None:
        raise UserError(
            f"vlm.{field}: {limit} do not suffice, spent: {self.requests} requests and "
            f"{self.tokens} tokens; what was answered is kept; raise {field}, or run again to go on"
        )


class Endpoint:
    """A connection to the endpoint; a context manager, safe to share between threads."""

    def __init__(self, settings: VlmSettings, budget: Budget):
        import openai

        self._settings, self._budget, self._key = settings, budget, settings.key()

        def count(request: object) -> None:
            budget.request()

        self._client = openai.OpenAI(
            base_url=settings.base_url,
            api_key=self._key,
            timeout=settings.timeout,
            max_retries=RETRIES,
            # Every attempt passes here, the client's own retries too.
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [count]}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(self, messages: list[dict[str, Any]]) -> Reply:
        """Sends chat messages.

        Raises:
            UserError: the budget does not allow it, or the endpoint does not answer as it should.
        """
        with self._plainly():
            answer = self._create(messages)
        if answer is None:
            return Reply(text=None, refused=True, tokens=0)
        # The client believes any JSON; another kind of page is a string here.
        if not getattr(answer, "choices", None):
            raise UserError(
                f"{self._where} does not speak the chat completions protocol; allowed: an "
                "OpenAI-compatible endpoint; correct base_url, which often ends in /v1"
            )
        tokens = answer.usage.total_tokens if answer.usage else 0
        self._budget.used(tokens)
        choice = answer.choices[0]
        refused = bool(choice.message.refusal) or choice.finish_reason in FILTERED
        return Reply(text=choice.message.content, refused=refused, tokens=tokens)

    def _create(self, messages: list[dict[str, Any]]) -> Any:
        """The completion, or None where the endpoint refuses the content by an error."""
        import openai

        try:
            return self._client.chat.completions.create(
                model=self._settings.model, messages=messages, extra_body=self._settings.parameters
            )
        except openai.BadRequestError as error:
            if error.code in FILTERED:
                return None
            raise

    @property
    def _where(self) -> str:
        return f"vlm.base_url: {self._settings.base_url}"

    @contextmanager
    def _plainly(self) -> Iterator[None]:
        import openai

        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            variable = self._settings.key_variable
            cure = f"correct the key in {variable}" if variable else "set vlm.key_variable"
            raise UserError(
                f"{self._where} refuses the key or what it may do ({error.status_code}); {cure}"
            ) from None
        except openai.APIStatusError as error:
            said = " ".join(str(error.message).replace(self._key, "***").split())[:200]
            raise UserError(
                f"{self._where} answers {error.status_code}: {said}; "
                f"{_cure(error.status_code)}; what was answered is kept"
            ) from None
        except openai.APITimeoutError:
            raise UserError(
                f"{self._where} does not answer within {self._settings.timeout:g} s, asked "
                f"{RETRIES + 1} times; raise vlm.timeout, or try later; what was answered is kept"
            ) from None
        except openai.APIConnectionError:
            raise UserError(
                f"{self._where} cannot be reached, tried {RETRIES + 1} times; correct base_url, or "
                "start the server; what was answered is kept"
            ) from None
        except (openai.APIResponseValidationError, json.JSONDecodeError):
            raise UserError(
                f"{self._where} answers what is no JSON; allowed: an OpenAI-compatible endpoint; "
                "correct base_url, which often ends in /v1"
            ) from None


def _cure(status: int) -> str:
    if status == 429 or status >= 500:
        return f"asked {RETRIES + 1} times; try later, or lower vlm.concurrency"
    return "correct vlm.base_url, vlm.model or vlm.parameters"
