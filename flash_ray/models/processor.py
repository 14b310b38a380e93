"""Qwen3-VL's processor without its video part, which needs torchvision for nothing but videos."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils.import_utils import is_torchvision_available

from flash_ray.models.loading import index_file, on_hub


class TextImageProcessor(Qwen3VLProcessor):
    """Turns prompts and pictures into the inputs of `Qwen3VLForConditionalGeneration`.

    `save_pretrained` and `from_pretrained` work as for any processor of transformers.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def without_video(source: str | Path) -> dict[str, Any]:
    """The `processor` to load a pipeline with where transformers' own cannot be loaded, as
    torchvision is not installed; {} where it can.

    Raises:
        OSError, ValueError: there is no model_index.json, or no processor that can be read.
        UserError: `source` is no folder, and no hub model that can be reached.
    """
    index = index_file(str(source))
    named = json.loads(index.read_text(encoding="utf-8")).get("processor")
    if named != ["transformers", "Qwen3VLProcessor"] or is_torchvision_available():
        return {}
    name, revision = on_hub(source)
    part = TextImageProcessor.from_pretrained(
        name, revision=revision or "main", subfolder="processor"
    )
    return {"processor": part}
