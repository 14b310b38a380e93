"""Builds the small, untrained Qwen-Image-2.1 pipeline, and loads a saved one.

Every part is the class that the real checkpoint uses, with small dimensions; the text encoder is
random and stays so: its embeddings tell tokens apart, the transformer learns what they mean.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from flash_ray.miniature.processor import ImageTextProcessor

TEXT_WIDTH = 128

VAE_CONFIG: dict[str, Any] = {
    "base_dim": 80,
    "decoder_base_dim": 80,
    "z_dim": 64,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, False],
    "in_channels": 64,  # RGBA in 4x4 patches; two halvings follow: 16 pixels a token in all
    "out_channels": 64,
    "patch_size": 4,
    "is_residual": True,
    "latents_mean": [0.0] * 64,
    "latents_std": [1.0] * 64,
}

TRANSFORMER_CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": 64,
    "num_layers": 6,
    "attention_head_dim": 48,
    "num_attention_heads": 5,
    "context_in_dim": TEXT_WIDTH,
    "axes_dims_rope": (12, 18, 18),
}

_SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

# The text that QwenImage21Pipeline puts around a prompt.
_PROMPT_TEMPLATE = (
    "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"
    "<|im_start|>user\n<image1><|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
)

# An upper-case letter is a word of its own, so that a word to be drawn is spelled letter by letter.
_WORDS = Regex(r"[A-Z]| ?[a-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\s+")


def build_tokenizer(corpus: Iterable[str], vocabulary: int = 800) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on captions; upper-case letters are always single tokens.

    `vocabulary` counts the 7 special tokens and the 256 bytes and is an upper bound.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_PROMPT_TEMPLATE.format(text) for text in corpus), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=_SPECIAL_TOKENS[1:],
        chat_template=_CHAT_TEMPLATE,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ImageTextProcessor:
    """The processor around `tokenizer`; pictures whose sides are multiples of 32 keep their size.

    One image slot of the text encoder stands for 32x32 pixels, which is 2x2 latent tokens.
    """
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        min_pixels=32 * 32,
        max_pixels=512 * 512,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return ImageTextProcessor(images, tokenizer, chat_template=_CHAT_TEMPLATE)


def build_text_encoder(
    tokenizer: PreTrainedTokenizerFast, width: int = TEXT_WIDTH
) -> Qwen3VLForConditionalGeneration:
    """A random, frozen two-layer Qwen3-VL whose last hidden state still tells tokens apart."""

    def token_id(token: str) -> int:
        number = tokenizer.convert_tokens_to_ids(token)
        assert isinstance(number, int), "one token has one id"
        return number

    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "initializer_range": 0.05,
            "max_position_embeddings": 4096,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    encoder = Qwen3VLForConditionalGeneration(config)
    # The layers add about 0.3 to each channel: at unit scale a token's embedding outweighs them.
    embedding = encoder.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding), "tokens are embedded by a table"
    torch.nn.init.normal_(embedding.weight, std=1.0)
    return encoder.requires_grad_(False).eval()


def build_pipeline(
    corpus: Iterable[str],
    vae_config: Mapping[str, Any] = VAE_CONFIG,
    transformer_config: Mapping[str, Any] = TRANSFORMER_CONFIG,
    seed: int = 0,
) -> QwenImage21Pipeline:
    """Builds the untrained pipeline in fp32 on the CPU.

    Args:
        corpus: captions and instructions; the tokenizer is trained on them.
        vae_config: arguments of `AutoencoderKLQwenImage21` (it must shrink 16x).
        transformer_config: arguments of `QwenImage21Transformer2DModel`.
        seed: fixes every random weight; the caller's random state is left alone.
    """
    tokenizer = build_tokenizer(corpus)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return QwenImage21Pipeline(
            # Shift 1 and no dynamic shift: sigmas given to the pipeline are used as they are.
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
            vae=AutoencoderKLQwenImage21(**vae_config).eval(),
            text_encoder=build_text_encoder(tokenizer),
            processor=build_processor(tokenizer),
            transformer=QwenImage21Transformer2DModel(**transformer_config).eval(),
        )


def load_pipeline(path: str | Path, dtype: torch.dtype = torch.float32) -> QwenImage21Pipeline:
    """Loads a pipeline that `build_pipeline(...).save_pretrained(path)` wrote."""
    return QwenImage21Pipeline.from_pretrained(path, dtype=dtype)
