"""Loads a whole transformer beside the base's: a student that was trained in full, a fine-tune."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from flash_ray.errors import UserError
from flash_ray.models.base import first_difference, shapes_of
from flash_ray.models.loading import on_hub

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

Transformer = TypeVar("Transformer", bound="ModelMixin")


def load_whole(
    transformer_class: type[Transformer],
    source: Path | str,
    device: torch.device,
    dtype: torch.dtype,
    shapes: dict[str, list[int]],
) -> Transformer:
    """Loads the transformer in a folder or of a hub id, which may be a pipeline's, frozen.

    Args:
        shapes: of the base's weights, by name.

    Raises:
        UserError: there is none, or it has another shape than the base's.
    """
    name, revision = on_hub(source)
    given: Any = {"dtype": dtype, "use_safetensors": True, "revision": revision}
    try:
        try:
            loaded = transformer_class.from_pretrained(name, **given)
        except OSError:
            loaded = transformer_class.from_pretrained(name, subfolder="transformer", **given)
    except (OSError, ValueError) as error:
        raise UserError(
            f"transformer: none can be loaded from {source}; give a folder with config.json "
            "and safetensors in diffusers format"
        ) from error
    if strange := first_difference(shapes_of(loaded), shapes):
        raise UserError(
            f"transformer: {source} is not of the base's shape ({strange}); give one that "
            "was made from this base"
        )
    on_device: Any = loaded.to  # the annotation is that of another method
    return cast(Transformer, on_device(device).requires_grad_(False).eval())
