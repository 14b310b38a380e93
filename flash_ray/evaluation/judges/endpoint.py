"""A chat endpoint: its settings, from a file that holds no secret, and requests within a budget."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import Field, JsonValue, ValidationError

from flash_ray.errors import UserError, unknown
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Section, Task

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam


class VlmSettings(Section):
    """A model at an OpenAI-compatible chat endpoint, and what it may cost."""

    base_url: str = Field(
        pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$",
        description="http(s)://host[:port]/path, without a login; /chat/completions follows it",
    )
    model: str = Field(min_length=1, description="the model's name at that endpoint")
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="the name, in capitals, of the environment variable that holds the API key; "
        "null: the endpoint needs none",
    )
    max_requests: int = Field(
        ge=1, description="most HTTP requests for one evaluation, retries included, 1 or more"
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of one evaluation, as the endpoint counts them, after which nothing "
        "more is asked, 1 or more",
    )
    concurrency: int = Field(8, ge=1, le=64, description="requests at the same time, 1 to 64")
    timeout: float = Field(120.0, gt=0, le=3600, description="seconds for an answer, up to 3600")
    parameters: dict[str, JsonValue] = Field(
        {}, description="more fields of every request, e.g. {temperature: 0}"
    )
    rubrics: dict[Task, dict[str, str]] = Field(
        {},
        description="what it is told to look at, {t2i: {CATEGORY: TEXT, all: TEXT}, edit: ...}, in "
        "place of what is told by default; all: of any category",
    )

    @property
    def judge_name(self) -> str:
        """What results call the judge."""
        return f"vlm:{self.model}"

    @property
    def identity(self) -> dict[str, JsonValue]:
        """What decides the answers, as plain data."""
        rubrics: JsonValue = {task: dict(texts) for task, texts in self.rubrics.items()}
        return {"model": self.model, "parameters": self.parameters, "rubrics": rubrics}

    def key(self) -> str:
        """The API key.

        Raises:
            UserError: the environment has none.
        """
        if self.key_variable is None:
            return "none"  # else the client would send the key of OPENAI_API_KEY
        if not (key := os.environ.get(self.key_variable)):
            raise UserError(
                f"vlm.key_variable: {self.key_variable} is not in the environment; allowed: a "
                "variable that holds the API key; set it, or correct the name"
            )
        return key


class PairSettings(VlmSettings):
    """A model that says which of two pictures is better: a model's, or the reference's."""

    reference: str = Field(
        min_length=1,
        description="the model whose answers to the same cases are the other picture: teacher, or "
        "a published student's name",
    )

    @property
    def judge_name(self) -> str:
        """What results call the judge."""
        return f"vlm-pair:{self.model}:{self.reference}"


Settings = TypeVar("Settings", bound=VlmSettings)


def read_settings(file: str, kind: type[Settings], option: str) -> Settings:
    """Reads a YAML file.

    Args:
        kind: of settings that it holds.
        option: what named the file, for messages.

    Raises:
        UserError: one line that names the field and the cure; it quotes no value, since someone may
            have put a secret there.
    """
    field = f"{option}:{file}"
    try:
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{field}: {reason}; allowed: a YAML file; check the name") from None
    try:
        raw = parse_yaml(text, field)
    except UserError:  # its own words may quote what is there
        raise UserError(f"{field}: not valid YAML; correct it") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{field}: not a mapping; allowed: YAML with the keys {', '.join(kind.model_fields)}; "
            "correct it"
        )
    try:
        return kind.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"{field}: {_first(error, kind)}") from None


def _first(error: ValidationError, kind: type[VlmSettings]) -> str:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return unknown(name, name, kind.model_fields, "key")
    problem = "missing" if first["type"] == "missing" else first["msg"]
    return f"{name}: {problem}; allowed: {kind.model_fields[name].description}; correct it"


RETRIES = 3  # of one request, after 408, 409, 429, 5xx and lost connections
FILTERED = ("content_filter", "content_policy_violation")


class Reply(Section):
    """What the model answers; `tokens` counts request and answer, 0 if the endpoint does not."""

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
                self._raise("max_requests", limits.max_requests)
            if limits.max_tokens is not None and self.tokens >= limits.max_tokens:
                self._raise("max_tokens", limits.max_tokens)
            self.requests += 1

    def used(self, tokens: int) -> None:
        """Counts an answer's tokens."""
        with self._lock:
            self.tokens += tokens

    def _raise(self, field: str, limit: int) -> None:
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

    def ask(self, messages: "list[ChatCompletionMessageParam]") -> Reply:
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

    def _create(self, messages: "list[ChatCompletionMessageParam]") -> Any:
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
            message = " ".join(str(error.message).replace(self._key, "***").split())[:200]
            raise UserError(
                f"{self._where} answers {error.status_code}: {message}; "
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
