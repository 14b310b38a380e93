"""Shared by the unit tests: a very small untrained miniature with weights that matter."""

import os

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict

from flash_ray.miniature.training.specialized import LAYERS, save_lora
from flash_ray.models.qwen_image_21 import QwenImage21
from tests.helpers.small import build_base

CORPUS = [
    f'A {color} {thing} on a {ground} field with the word "{word}"'
    for color in ("red", "blue", "green")
    for thing in ("circle", "house", "tree")
    for ground in ("dark", "bright")
    for word in ("CAT", "DOG", "SUN")
]


@pytest.fixture(scope="module", autouse=True)
def nobodys_store():
    """Hides the store of other tiers of tests in this process; a module may start its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def miniature_folder(tmp_path_factory):
    """A saved pipeline; its transformer's weights are scaled up so that prompts matter."""
    return build_base(tmp_path_factory.mktemp("miniature"), CORPUS)


@pytest.fixture(scope="session")
def lora_folder(miniature_folder, tmp_path_factory):
    """A LoRA of the miniature, of rank 2, with random weights that matter."""
    transformer = QwenImage21.from_pretrained(miniature_folder, encoders=False).transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=list(LAYERS)))
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in get_peft_model_state_dict(transformer).items()
    }
    folder = tmp_path_factory.mktemp("lora")
    save_lora(weights, 2, folder)
    return folder


@pytest.fixture(scope="session")
def backbone(miniature_folder):
    return QwenImage21.from_pretrained(miniature_folder)
