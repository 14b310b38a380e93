"""Writes a published LoRA with ComfyUI's names: `diffusion_model.`, and an alpha for each layer."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from flash_ray.models.lora_settings import IN_FILE, PREFIX

COMFYUI = "diffusion_model."


def save_for_comfyui(source: Path, target: Path, about: Mapping[str, str]) -> None:
    """Writes the file of a student, which has the same alpha in every layer, under other names.

    Args:
        about: kept in the file's metadata.
    """
    with safe_open(source, framework="pt") as opened:
        alpha = json.loads(opened.metadata()[IN_FILE])[f"{PREFIX}lora_alpha"]
        matrices = {
            f"{COMFYUI}{key.removeprefix(PREFIX)}": opened.get_tensor(key) for key in opened.keys()
        }
    layers = {key.rpartition(".lora_")[0] for key in matrices}
    alphas = {f"{layer}.alpha": torch.tensor(float(alpha)) for layer in layers}
    save_file(matrices | alphas, target, dict(about))
