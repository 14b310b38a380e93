"""The miniature's processor: Qwen3-VL's without its video part.

`Qwen3VLProcessor` needs torchvision for videos only; the pipeline feeds it text and pictures.
"""

from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

# A saved pipeline's model_index.json names this module; diffusers looks in it for the class and
# for the base class whose from_pretrained it knows.
__all__ = ["ImageTextProcessor", "ProcessorMixin"]


class ImageTextProcessor(Qwen3VLProcessor):
    """Turns prompts and pictures into the inputs of `Qwen3VLForConditionalGeneration`.

    `save_pretrained` and `from_pretrained` work as for any processor of transformers, and
    `QwenImage21Pipeline.from_pretrained` finds it once this module is imported.
    """

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
