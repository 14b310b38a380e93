"""Names of checkpoints: registered ones, folders, hub ids."""

from pathlib import Path

import pytest
import torch

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.models.loading import (
    dtype_of,
    family_of,
    load_model,
    resolve_base,
    validate_family,
)
from flash_ray.models.lora_source import is_lora, lora_file
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe import load_recipe


def test_a_registered_checkpoint_goes_by_its_name():
    assert (Path(resolve_base("miniature")) / "model_index.json").is_file()
    assert is_lora("miniature-specialized") and not is_lora("miniature")
    assert lora_file("miniature-specialized").is_file()
    with pytest.raises(UserError, match="base: no pipeline in .*one of 'miniature'"):
        resolve_base("miniature-specialized")


def test_other_names_are_folders_or_hub_ids(tmp_path):
    assert resolve_base("Qwen/Qwen-Image-2.1") == "Qwen/Qwen-Image-2.1"
    assert not is_lora(str(tmp_path))
    with pytest.raises(UserError, match="model_index.json is missing"):
        resolve_base(str(tmp_path))


def test_the_family_is_that_of_the_pipelines_class():
    assert family_of("miniature") is QwenImage21
    shapes = QwenImage21.transformer_shapes(resolve_base("miniature"))
    transformer = load_model("miniature", torch.float32, "cpu", encoders=False).transformer
    assert shapes == {name: list(w.shape) for name, w in transformer.state_dict().items()}
    channels = QwenImage21.transformer_channels(resolve_base("miniature"))
    assert channels == transformer.config.in_channels


def test_a_base_of_another_family_is_an_error():
    recipe = load_recipe("miniature")
    validate_family(recipe)
    other = recipe.model_copy(update={"family": "other"})
    with pytest.raises(UserError, match="family: 'other', but base miniature is of 'qwen-image"):
        validate_family(other)


def test_precision_is_a_dtype():
    fp32 = load_recipe("miniature", ["training.precision=fp32"])
    assert dtype_of(fp32) is torch.float32
    assert dtype_of(load_recipe("miniature", ["training.precision=bf16"])) is torch.bfloat16


def test_packages_that_register_plug_ins():
    assert "flash_ray" in plugins.packages() and "diffusers" not in plugins.packages()
