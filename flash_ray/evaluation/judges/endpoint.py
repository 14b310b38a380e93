"""The file of a judge that asks a model at a chat endpoint; it holds no secret."""

from typing import ClassVar

from pydantic import Field, JsonValue

from flash_ray.errors import UserError
from flash_ray.models.endpoint import EndpointSettings, Settings, validated
from flash_ray.recipe.plain import parse_yaml, read_text
from flash_ray.recipe.schema import Task


class VlmSettings(EndpointSettings):
    """The model that a judge asks, and what one evaluation may cost."""

    section: ClassVar[str] = "vlm"

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
    return validated(kind, raw, field)
