"""What a user brings: a pipeline that shares no width with the miniature, data and a benchmark.

The pipeline is small and untrained. Its scheduler shifts with the size of the picture, and its
model_index.json names transformers' own classes, as that of Qwen-Image-2.1 does.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage21 import AutoencoderKLQwenImage21
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from matplotlib.cbook import get_sample_data
from PIL import Image

from flash_ray.miniature.pipeline import build_processor, build_text_encoder, build_tokenizer

ANIMALS = ("cat", "dog", "owl", "fox", "hen", "bee")
FOODS = ("soup", "bread", "rice", "cake", "plum", "corn")
EDITS = ("make it snow", "paint the wall green", "remove the flag", "turn day into night")
# Height, width: of photographs as they come.
PHOTOGRAPHS = ((300, 200), (200, 300), (256, 256), (420, 180))
LATENTS, TEXT_WIDTH, HEADS, HEAD_WIDTH = 32, 96, 4, 32

VAE = {
    "base_dim": 16,
    "decoder_base_dim": 16,
    "z_dim": LATENTS,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, False],
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": 4,
    "is_residual": True,
    "latents_mean": [0.1] * LATENTS,
    "latents_std": [1.5] * LATENTS,
}
TRANSFORMER = {
    "in_channels": LATENTS,
    "out_channels": LATENTS,
    "num_layers": 2,
    "attention_head_dim": HEAD_WIDTH,
    "num_attention_heads": HEADS,
    "context_in_dim": TEXT_WIDTH,
    "axes_dims_rope": (8, 12, 12),
}
SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}


def save_pipeline(folder: Path) -> Path:
    """A pipeline with weights scaled so that prompts and times matter; the same every time."""
    tokenizer = build_tokenizer([*prompts(ANIMALS), *prompts(FOODS), *EDITS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        pipeline = QwenImage21Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=AutoencoderKLQwenImage21(**VAE).eval(),
            text_encoder=build_text_encoder(tokenizer, TEXT_WIDTH),
            processor=build_processor(tokenizer),
            transformer=QwenImage21Transformer2DModel(**TRANSFORMER).eval(),
        )
        for weight in pipeline.transformer.parameters():
            if weight.dim() == 2:
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    pipeline.save_pretrained(folder)
    _with_their_own_processor(folder)
    return folder


def save_data(folder: Path) -> None:
    """prompts.jsonl in two categories, and photographs with edits.jsonl beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, size in enumerate(PHOTOGRAPHS):
        photograph(size).save(folder / f"photo-{index}.jpg")
    rows = [
        {"prompt": prompt, "category": category}
        for category, nouns in (("animals", ANIMALS), ("food", FOODS))
        for prompt in prompts(nouns)
    ]
    edits = [
        {"prompt": f"{edit} in picture {index}", "image": f"photo-{index}.jpg"}
        for index in range(len(PHOTOGRAPHS))
        for edit in EDITS
    ]
    _write(folder / "prompts.jsonl", rows)
    _write(folder / "edits.jsonl", [{**edit, "category": "photos"} for edit in edits])


def save_benchmark(folder: Path) -> None:
    """bench.jsonl: 12 prompts, some with text to render, and 6 edits, at 128 to 192 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = ([128, 128], [128, 192], [160, 128])
    rows: list[dict[str, object]] = [
        {
            "id": f"{category}-{index}",
            "category": category,
            "prompt": f'A {noun} beside a sign that says "{noun.upper()}"',
            "text": noun.upper(),
            "size": sizes[index % 3],
        }
        for category, nouns in (("animals", ANIMALS), ("food", FOODS))
        for index, noun in enumerate(nouns)
    ]
    for index in range(6):
        picture = f"case-{index}.jpg"
        photograph(PHOTOGRAPHS[index % len(PHOTOGRAPHS)]).rotate(5 * index).save(folder / picture)
        prompt = f"{EDITS[index % len(EDITS)]}, as in a film"
        rows.append({"id": f"photo-{index}", "category": "photos", "prompt": prompt})
        rows[-1] |= {"image": picture, "size": None}
    _write(folder / "bench.jsonl", rows)


def photograph(size: tuple[int, int]) -> Image.Image:
    """A part of a photograph, of that height and width."""
    with get_sample_data("grace_hopper.jpg") as file:
        whole = Image.open(file).convert("RGB")
    return whole.crop((100, 40, 100 + size[1], 40 + size[0]))


def prompts(nouns: Sequence[str]) -> list[str]:
    """Four prompts about each."""
    kinds = ("a small", "an old", "a red", "a painted")
    return [f"{kind} {noun} in the morning light" for noun in nouns for kind in kinds]


def _with_their_own_processor(folder: Path) -> None:
    """Names transformers' processor in place of the miniature's."""
    for path, name in (
        ("model_index.json", "processor"),
        ("processor/processor_config.json", "processor_class"),
    ):
        content = json.loads((folder / path).read_text())
        content[name] = "Qwen3VLProcessor"
        if name == "processor":
            content[name] = ["transformers", "Qwen3VLProcessor"]
        (folder / path).write_text(json.dumps(content))


def _write(file: Path, rows: Sequence[dict[str, object]]) -> None:
    lines = [
        json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
