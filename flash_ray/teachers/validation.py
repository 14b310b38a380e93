"""Whether teachers fit the student's base, by their files' headers, before anything starts."""

from safetensors import SafetensorError, safe_open

from flash_ray.errors import UserError
from flash_ray.models.loading import (
    LORA,
    encoder_digest,
    family_of,
    is_lora,
    resolve_base,
    resolve_lora,
)
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
        if is_lora(teacher.model):
            _check_lora(field, teacher.model, recipe.base)
        elif teacher.model not in ("base", recipe.base):
            _check_pipeline(field, teacher.model, recipe.base)


def _check_lora(field: str, model: str, base: str) -> None:
    shapes = family_of(base).transformer_shapes(resolve_base(base))
    path = resolve_lora(model) / LORA
    try:
        with safe_open(path, framework="pt") as file:
            matrices = {key: file.get_slice(key).get_shape() for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{field}: {path} cannot be read ({error}); download it again") from error
    for key, (_, width) in matrices.items():
        layer, down, _ = key.removeprefix("transformer.").partition(".lora_A.")
        if not down:
            continue
        height = matrices.get(key.replace(".lora_A.", ".lora_B."), [0])[0]
        if shapes.get(f"{layer}.weight") != [height, width]:
            raise UserError(
                f"{field}: the LoRA {model} has matrices for {layer} of {height}x{width}, the base "
                f"{base} has {shapes.get(f'{layer}.weight', 'none')} there; {_CURE}"
            )
    if not any(".lora_A." in key for key in matrices):
        raise UserError(f"{field}: {path} holds no LoRA in diffusers' format; {_CURE}")


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
