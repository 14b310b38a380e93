"""Teachers that do not fit the backbone are refused from their files' headers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_ray.errors import UserError
from flash_ray.models.lora_source import LORA, is_lora, lora_digest
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe import load_recipe
from flash_ray.teachers.protocol import Group, groups
from flash_ray.teachers.validation import validate_teachers


def recipe_with(base, model):
    teachers = [
        {"name": "base", "model": "base", "weight": 0.5},
        {"name": "other", "model": str(model), "weight": 0.5, "replicas": 3},
    ]
    return load_recipe("miniature", [f"base={base}", f"teachers={json.dumps(teachers)}"])


def refusal(base, model):
    with pytest.raises(UserError, match="^teachers.1.model: ") as caught:
        validate_teachers(recipe_with(base, model))
    return str(caught.value)


@pytest.fixture
def other_base(miniature_folder, tmp_path):
    return shutil.copytree(miniature_folder, tmp_path / "other")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_lora_of_the_base_and_the_bases_twin_fit(miniature_folder, lora_folder, other_base):
    validate_teachers(recipe_with(miniature_folder, lora_folder))
    validate_teachers(recipe_with(miniature_folder, other_base))


def test_a_lora_of_a_wider_base_is_refused(lora_folder):
    assert "has matrices for" in refusal("miniature", lora_folder)


def test_a_file_without_matrices_is_refused(miniature_folder, tmp_path):
    save_file({"nothing": torch.zeros(2, 2)}, tmp_path / LORA)
    assert "holds no LoRA" in refusal(miniature_folder, tmp_path)


def test_a_damaged_lora_is_refused(miniature_folder, lora_folder, tmp_path):
    (tmp_path / LORA).write_bytes((lora_folder / LORA).read_bytes()[:100])
    assert "cannot be read" in refusal(miniature_folder, tmp_path)


def test_a_model_that_is_nowhere_is_refused(miniature_folder, tmp_path):
    assert "neither a LoRA nor a pipeline" in refusal(miniature_folder, tmp_path / "nowhere")


def test_a_pipeline_with_other_encoders_is_refused(miniature_folder, other_base):
    change(other_base / "scheduler/scheduler_config.json", shift=7.0)
    assert "encodes prompts or images otherwise" in refusal(miniature_folder, other_base)


def test_a_pipeline_of_another_kind_or_width_is_refused(miniature_folder, other_base):
    change(other_base / "transformer/config.json", in_channels=8)
    assert "has 8 latent channels" in refusal(miniature_folder, other_base)
    change(other_base / "model_index.json", _class_name="FluxPipeline")
    assert "holds a FluxPipeline" in refusal(miniature_folder, other_base)


def test_loras_share_the_bases_actors(miniature_folder, lora_folder, other_base):
    shared = recipe_with(miniature_folder, lora_folder)
    assert groups(shared) == [Group(str(miniature_folder), (0, 1), 3, 3)]
    apart = recipe_with(miniature_folder, other_base)
    assert groups(apart) == [
        Group(str(miniature_folder), (0,), 1, 1),
        Group(str(other_base), (1,), 3, 3),
    ]


def test_an_added_lora_leaves_the_plain_base_as_it_was(miniature_folder, lora_folder, backbone):
    model = QwenImage21.from_pretrained(miniature_folder)
    conditions = model.encode(["a red house"], None, (64, 64))
    x_BNC = torch.randn(1, 16, model.latent_channels, generator=torch.Generator().manual_seed(0))
    t_B = torch.tensor([0.7])

    def velocity(name):
        with model.adapters.use(name), torch.no_grad():
            return model.velocity(model.transformer, x_BNC, t_B, conditions.positive)

    plain = velocity(None)
    model.add_lora(lora_folder / LORA, "narrow")
    assert torch.equal(velocity(None), plain)
    assert (velocity("narrow") - plain).abs().mean() > 0.01
    assert torch.equal(velocity(None), plain)
    with pytest.raises(ValueError, match="before a LoRA is added"):
        model.copy_transformer()


def test_a_lora_is_known_by_its_weights(lora_folder, tmp_path):
    assert is_lora(str(lora_folder)) and not is_lora(str(tmp_path))
    weights = load_file(lora_folder / LORA)
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, tmp_path / LORA)
    assert lora_digest(str(tmp_path)) != lora_digest(str(lora_folder))
