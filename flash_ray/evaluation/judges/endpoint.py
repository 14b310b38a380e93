"""The file of a judge that asks a model at a chat endpoint; it holds no secret."""

from typing import ClassVar

from flash_ray.errors import UserError
from flash_ray.models.endpoint import EndpointSettings, validated
from flash_ray.recipe.plain import parse_yaml, read_text


class VlmSettings(EndpointSettings):
    """The model that a judge asks, and what one evaluation may cost."""

    section: ClassVar[str] = "vlm"


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
        text = read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UserError(f"{field}: {reason}; allowed: a YAML file; check the name") from None
    try:
        raw = parse_yaml(text, field)
    except UserError:  # its own words may quote what is there
        raise UserError(f"{field}: not valid YAML; correct it") from None
    return validated(VlmSettings, raw, field)
