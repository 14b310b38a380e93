"""The miniature's processor, at the path that its pipelines' model_index.json names.

diffusers looks in this module for the class and for the base class whose from_pretrained it knows.
"""

from transformers import ProcessorMixin

from flash_ray.models.processor import TextImageProcessor

__all__ = ["ImageTextProcessor", "ProcessorMixin"]


class ImageTextProcessor(TextImageProcessor):
    """Turns prompts and pictures into the inputs of `Qwen3VLForConditionalGeneration`.

    `QwenImage21Pipeline.from_pretrained` finds it once this module is imported.
    """
