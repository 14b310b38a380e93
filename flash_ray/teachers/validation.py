"""Whether teachers fit the student's backbone, by their files' headers, before anything starts."""

import torch
from diffusers import QwenImage21Pipeline, QwenImage21Transformer2DModel
from safetensors import SafetensorError, safe_open

from flash_ray.errors import UserError
from flash_ray.models.loading import LORA, encoder_digest, is_lora, resolve_base, resolve_lora
from flash_ray.recipe import Recipe

_CURE = "give a LoRA or a pipeline that was trained from this base"


def validate_unfit_teachers(recipe: Recipe) -> None:
    """Raises UserError if a teacher is missing, or cannot score the student's latents.

    A LoRA's matrices must fit the base's layers. A pipeline must encode prompts and pictures as the
    base does, since all teachers are asked about the same conditions and latents.
    """
    for index, teacher in enumerate(recipe.teachers):
        field = f"teachers.{index}.model"
        if is_lora(teacher.model):
            _check_lora(field, teacher.model, recipe.base)
        elif teacher.model not in ("base", recipe.base):
            _check_pipeline(field, teacher.model, recipe.base)


def _check_lora(field: str, model: str, base: str) -> None:
    config = QwenImage21Transformer2DModel.load_config(resolve_base(base), subfolder="transformer")
    with torch.device("meta"):
        transformer = QwenImage21Transformer2DModel.from_config(config)
    shapes = {name: list(value.shape) for name, value in transformer.state_dict().items()}
    path = resolve_lora(model) / LORA
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{field}: {path} cannot be read ({error}); download it again") from error
    for key, (_, width) in found.items():
        layer, down, _ = key.removeprefix("transformer.").partition(".lora_A.")
        if not down:
            continue
        height = found.get(key.replace(".lora_A.", ".lora_B."), [0])[0]
        if shapes.get(f"{layer}.weight") != [height, width]:
            raise UserError(
                f"{field}: the LoRA {model} has matrices for {layer} of {height}x{width}, the base "
                f"{base} has {shapes.get(f'{layer}.weight', 'none')} there; {_CURE}"
            )
    if not any(".lora_A." in key for key in found):
        raise UserError(f"{field}: {path} holds no LoRA in diffusers' format; {_CURE}")


def _check_pipeline(field: str, model: str, base: str) -> None:
    try:
        source = resolve_base(model)
        kind = QwenImage21Pipeline.load_config(source)["_class_name"]
        config = QwenImage21Transformer2DModel.load_config(source, subfolder="transformer")
        same = encoder_digest(model) == encoder_digest(base)
    except (UserError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("base: ")[:200]
        raise UserError(f"{field}: {model!r} is neither a LoRA nor a pipeline: {reason}") from error
    theirs = QwenImage21Transformer2DModel.load_config(resolve_base(base), subfolder="transformer")
    channels = config["in_channels"], theirs["in_channels"]
    if kind != "QwenImage21Pipeline":
        problem = f"is a {kind}, the student's backbone a QwenImage21Pipeline"
    elif channels[0] != channels[1]:
        problem = f"has {channels[0]} latent channels, the base {base} {channels[1]}"
    elif not same:
        problem = f"encodes prompts or pictures otherwise than the base {base}"
    else:
        return
    raise UserError(f"{field}: {model} {problem}; {_CURE}")
