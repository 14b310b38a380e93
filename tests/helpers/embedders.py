"""Very small CLIP and SigLIP checkpoints with random weights, as transformers saves them."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

SIDE = 32  # pixels of a side, as the models see pictures
WORDS = 16  # tokens that they read


def save_clip(folder: Path) -> Path:
    """A CLIP with a tokenizer that knows letters."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tokenizer = _tokenizer(folder)
    text = {**tower, "num_attention_heads": 2, "max_position_embeddings": WORDS}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**tower, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**text, **ids, "vocab_size": len(tokenizer)},
            vision_config=vision,
            projection_dim=16,
        )
    )
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SigLIP with the same tokenizer."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tokenizer = _tokenizer(folder)
    text = {**tower, "num_attention_heads": 2, "max_position_embeddings": WORDS}
    vision = {**tower, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(1)
    config = SiglipConfig(text_config={**text, "vocab_size": len(tokenizer)}, vision_config=vision)
    SiglipModel(config).save_pretrained(folder)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(code) for code in range(33, 127)]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocab), str(merges), model_max_length=WORDS)
