"""Whether teachers fit the student's base, by their files' headers, before anything starts."""

from pathlib import Path

from flash_ray.errors import UserError
from flash_ray.models.loading import encoder_digest, family_of, resolve_base
from flash_ray.models.lora_source import is_lora, lora_file
from flash_ray.recipe import Recipe

_CURE = "give a LoRA or a pipeline that was trained from this base"


def validate_teachers(recipe: Recipe) -> None:
    """Checks that every teacher is there and can score the student's latents.

    A LoRA's matrices must fit the base's layers. A pipeline must encode prompts and images as the
    base does, since all teachers get the same conditions and latents.

    Raises:
        UserError: one is missing or does not fit.
    """
    for index, teacher in enumerate(recipe.teachers):
        field = f"teachers.{index}.model"
        if file := _lora_file(field, recipe, teacher.model):
            _check_lora(field, teacher.model, file, recipe.base)
        elif teacher.model not in ("base", recipe.base):
            _check_pipeline(field, teacher.model, recipe.base)


def _lora_file(field: str, recipe: Recipe, model: str) -> Path | None:
    try:
        return lora_file(model, recipe.runtime.storage.endpoint) if is_lora(model) else None
    except UserError as error:
        raise UserError(str(error).replace("teachers:", f"{field}:", 1)) from error


def _check_lora(field: str, model: str, file: Path, base: str) -> None:
    try:
        family_of(base).check_lora(file, resolve_base(base))
    except ValueError as error:
        raise UserError(f"{field}: the LoRA {model} {error}; {_CURE}") from error


def _check_pipeline(field: str, model: str, base: str) -> None:
    base_family = family_of(base)
    try:
        family = family_of(model)
        channels = family.transformer_channels(resolve_base(model))
        same_encoders = encoder_digest(model) == encoder_digest(base)
    except (UserError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("base: ")[:200]
        raise UserError(
            f"{field}: {model!r} is neither a LoRA nor a pipeline that fits: {reason}"
        ) from error
    base_channels = base_family.transformer_channels(resolve_base(base))
    if family.pipeline_class != base_family.pipeline_class:
        problem = f"is a {family.pipeline_class}, the base {base} a {base_family.pipeline_class}"
    elif channels != base_channels:
        problem = f"has {channels} latent channels, the base {base} {base_channels}"
    elif not same_encoders:
        problem = f"encodes prompts or images otherwise than the base {base}"
    else:
        return
    raise UserError(f"{field}: {model} {problem}; {_CURE}")
