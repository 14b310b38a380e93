"""A VLM judge's settings, from a YAML file that holds no secret."""

import json
import os
from pathlib import Path

import yaml
from pydantic import Field, JsonValue, ValidationError

from flash_ray.errors import UserError
from flash_ray.recipe.checks import unknown
from flash_ray.recipe.load import RecipeLoader
from flash_ray.recipe.schema import Section


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


def read_settings(file: str, option: str = "--judge vlm") -> VlmSettings:
    """Reads a YAML file.

    Args:
        option: what named the file, for messages.

    Raises:
        UserError: one line that names the field and the cure; it quotes no value, since someone may
            have put a secret there.
    """
    field = f"{option}:{file}"
    try:
        raw = yaml.load(Path(file).read_text(encoding="utf-8"), RecipeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{field}: {reason}; allowed: a YAML file; check the name") from None
    except yaml.YAMLError:
        raise UserError(f"{field}: not valid YAML; correct it") from None
    if not isinstance(raw, dict):
        raise UserError(
            f"{field}: not a mapping; allowed: YAML with the keys {', '.join(_KEYS)}; correct it"
        )
    try:
        return VlmSettings.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise UserError(f"{field}: {_first(error)}") from None


_KEYS = tuple(VlmSettings.model_fields)


def _first(error: ValidationError) -> str:
    found = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    name = str(found["loc"][0])
    if found["type"] == "extra_forbidden":
        return unknown(name, name, _KEYS, "key")
    says = "missing" if found["type"] == "missing" else found["msg"]
    return f"{name}: {says}; allowed: {VlmSettings.model_fields[name].description}; correct it"
