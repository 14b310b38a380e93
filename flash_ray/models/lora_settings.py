"""The settings of a LoRA, as PEFT and diffusers write them: those that its numbers depend on.

They come from strangers. Ranks are those of the matrices, whatever a file says of them, and nothing
else is passed on: PEFT would make layers of any rank, repeat layers, and import modules by name.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from flash_ray.models.lora_source import SETTINGS

PREFIX = "transformer."
MAGNITUDE = ".lora_magnitude_vector"  # of DoRA, one for each output
BIAS = ".lora_B.bias"
MOST_ALPHA = 1e6
_MOST_BYTES = 2**20
IN_FILE = "lora_adapter_metadata"  # diffusers' name for them among the file's metadata
_Rank = Annotated[int, Field(ge=1)]
_Alpha = Annotated[float, Field(gt=0, le=MOST_ALPHA)]
# PEFT takes them for regular expressions: these end soon whatever they are compared with.
_Layers = Annotated[str, Field(pattern=r"^[\w.^$\\-]{1,200}$")]


class BadLora(ValueError):
    """The file is no LoRA that fits; the message says why, in one printable line."""

    def __init__(self, message: str):
        line = " ".join(message.split())
        super().__init__("".join(char if char.isprintable() else "?" for char in line)[:300])


class _Settings(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    r: _Rank | None = None
    lora_alpha: _Alpha = 8.0  # PEFT's own default
    rank_pattern: dict[str, _Rank] = {}
    alpha_pattern: dict[_Layers, _Alpha] = {}
    use_rslora: bool = False


def read_settings(
    file: Path, metadata: Mapping[str, str], ranks: Mapping[str, int], extras: set[str]
) -> dict[str, Any] | None:
    """The adapter's settings in the file, or in PEFT's adapter_config.json beside it; None: there
    are none, and the LoRA's scale is 1.

    Args:
        ranks: of the matrices, by layer.
        extras: `MAGNITUDE` and `BIAS`, where the layers have them.

    Raises:
        BadLora: they cannot be read, or are not of these matrices.
    """
    if (text := _text(file, metadata)) is None:
        return None
    try:
        raw = TypeAdapter(dict[str, Any]).validate_json(text)
        found = _Settings.model_validate({k.removeprefix(PREFIX): v for k, v in raw.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadLora(f"has settings that cannot be read ({where[:60]} {first['msg']})") from error
    stated = {found.r, *found.rank_pattern.values()}
    if found.r and (others := set(ranks.values()) - stated):
        raise BadLora(f"has matrices of rank {min(others)}, and settings for rank {found.r}")
    rank, _ = Counter(ranks.values()).most_common(1)[0]
    settings = {
        "r": rank,
        "rank_pattern": {f"^{re.escape(k)}": own for k, own in ranks.items() if own != rank},
        "lora_alpha": found.lora_alpha,
        "alpha_pattern": found.alpha_pattern,
        "use_rslora": found.use_rslora,
        "use_dora": MAGNITUDE in extras,
        "lora_bias": BIAS in extras,
        "target_modules": sorted(ranks),
    }
    return {f"{PREFIX}{name}": value for name, value in settings.items()}


def _text(file: Path, metadata: Mapping[str, str]) -> bytes | None:
    if IN_FILE in metadata:
        text = metadata[IN_FILE].encode()
    elif (beside := file.with_name(SETTINGS)).is_file():
        with beside.open("rb") as opened:
            text = opened.read(_MOST_BYTES + 1)
    else:
        return None
    if len(text) > _MOST_BYTES:
        raise BadLora("has settings of more than a MiB")
    return text
