"""LoRAs with the keys of each tool are what diffusers makes of them, or are refused in a line."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file

from flash_ray.errors import UserError
from flash_ray.models.lora import BadLora, read_lora
from flash_ray.models.lora_source import LORA, is_lora, lora_digest, lora_file
from flash_ray.models.qwen_image_21 import QwenImage21

ALPHA, RANK = 1.0, 2


@pytest.fixture(scope="module")
def layers(lora_folder):
    """The LoRA's matrices: {layer: (down, up)}; as it stands its scale is 1."""
    given = load_file(lora_folder / LORA)
    downs = {k: v for k, v in given.items() if ".lora_A." in k}
    return {
        key.removeprefix("transformer.").partition(".lora_A.")[0]: (
            down,
            given[key.replace(".lora_A.", ".lora_B.")],
        )
        for key, down in downs.items()
    }


def keyed(layers, prefix="", down="lora_A", up="lora_B", alpha=None, flat=False):
    named = {}
    for layer, (a, b) in layers.items():
        name = prefix + (layer.replace(".", "_") if flat else layer)
        named[f"{name}.{down}.weight"], named[f"{name}.{up}.weight"] = a.clone(), b.clone()
        if alpha is not None:
            named[f"{name}.alpha"] = torch.tensor(alpha)
    return named


KOHYA = {"prefix": "lora_unet_", "down": "lora_down", "up": "lora_up", "flat": True}
# name -> (how it is keyed, its scale, whether diffusers' own pipeline reads it as it is meant)
CONVENTIONS = {
    "diffusers": ({"prefix": "transformer."}, 1.0, True),
    "no prefix": ({}, 1.0, False),
    "no prefix, alphas": ({"alpha": ALPHA}, 0.5, True),
    "ComfyUI": ({"prefix": "diffusion_model."}, 1.0, True),
    "ComfyUI, alphas": ({"prefix": "diffusion_model.", "alpha": ALPHA}, 0.5, True),
    "down and up": ({"down": "lora_down", "up": "lora_up"}, 1.0, False),
    "kohya": ({**KOHYA, "alpha": ALPHA}, 0.5, False),
    "PEFT": ({"prefix": "base_model.model."}, 1.0, False),
    "diffusers, alphas": ({"prefix": "transformer.", "alpha": ALPHA}, 0.5, False),
    "adapter named default": ({"down": "lora_A.default", "up": "lora_B.default"}, 1.0, True),
}


@pytest.fixture(scope="module")
def velocity(miniature_folder):
    """Velocity under a LoRA's file, loaded by us or by diffusers' pipeline."""

    def of(file, by_diffusers=False):
        model = QwenImage21.from_pretrained(miniature_folder)
        conditions = model.encode(["a red house"], None, (64, 64)).positive
        noise = torch.Generator().manual_seed(0)
        x_BNC = torch.randn(1, 16, model.latent_channels, generator=noise)
        used = nullcontext()
        if by_diffusers:
            model.pipeline.load_lora_weights(load_file(file), adapter_name="it")
        elif file:
            model.add_lora(file, "it")
            used = model.adapters.use("it")
        with torch.no_grad(), used:
            return model.velocity(model.transformer, x_BNC, torch.tensor([0.7]), conditions)

    return of


@pytest.fixture(scope="module")
def expected(layers, velocity, tmp_path_factory):
    """Velocity at each scale, by diffusers' pipeline, from plain matrices."""
    found = {}
    for scale in (1.0, 0.5):
        file = tmp_path_factory.mktemp("plain") / "a.safetensors"
        scaled = {layer: (scale * a, b) for layer, (a, b) in layers.items()}
        save_file(keyed(scaled, "transformer."), file)
        found[scale] = velocity(file, by_diffusers=True)
    assert (found[1.0] - found[0.5]).abs().max() > 1e-3
    return found


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_lora_of_each_convention_is_what_diffusers_makes_of_it(
    layers, velocity, expected, tmp_path, name
):
    how, scale, is_read_by_diffusers = CONVENTIONS[name]
    file = tmp_path / "my style v2.safetensors"
    save_file(keyed(layers, **how), file)
    assert lora_file(str(tmp_path)) == lora_file(str(file)) == file
    got = velocity(file)
    assert torch.allclose(got, expected[scale], atol=1e-5)
    if is_read_by_diffusers:
        assert torch.allclose(got, velocity(file, by_diffusers=True), atol=1e-5)


def test_settings_of_peft_beside_the_file_are_its_scale(layers, velocity, expected, tmp_path):
    file = tmp_path / "adapter_model.safetensors"
    save_file(keyed(layers, "base_model.model."), file)
    before = lora_digest(str(tmp_path))
    settings = {"r": RANK, "lora_alpha": ALPHA, "peft_type": "LORA", "use_dora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert torch.allclose(velocity(file), expected[0.5], atol=1e-5)
    assert lora_digest(str(tmp_path)) != before


@pytest.mark.parametrize("form", ["lora_magnitude_vector", "dora_scale"])
def test_dora_by_output_is_what_diffusers_makes_of_it(
    layers, velocity, backbone, expected, tmp_path, form
):
    weights = backbone.transformer.state_dict()
    norms = {layer: 1.5 * weights[f"{layer}.weight"].norm(dim=1) for layer in layers}
    reference, file = tmp_path / "reference.safetensors", tmp_path / "dora.safetensors"
    magnitudes = {f"transformer.{k}.lora_magnitude_vector": v for k, v in norms.items()}
    save_file(keyed(layers, "transformer.") | magnitudes, reference)
    if form == "dora_scale":
        scales = {f"diffusion_model.{k}.dora_scale": v[:, None].clone() for k, v in norms.items()}
        save_file(keyed(layers, "diffusion_model.") | scales, file)
    else:
        save_file(keyed(layers) | {f"{k}.{form}": v for k, v in norms.items()}, file)
    got = velocity(file)
    assert torch.allclose(got, velocity(reference, by_diffusers=True), atol=1e-5)
    assert not torch.allclose(got, expected[1.0], atol=1e-3)


REFUSED = {
    "holds LoKr": lambda ls: {f"{k}.lokr_w1": a for k, (a, _) in ls.items()},
    "holds no LoRA": lambda ls: {"x.weight": torch.zeros(2)},
    "has matrices for text_encoder.q": lambda ls: {
        "text_encoder.q.lora_A.weight": torch.zeros(2, 4),
        "text_encoder.q.lora_B.weight": torch.zeros(4, 2),
    },
    "is not as diffusers reads it": lambda ls: dict(list(keyed(ls, "transformer.").items())[:1]),
    "magnitudes are by input": lambda ls: (
        keyed(ls) | {f"{k}.dora_scale": torch.ones(1, a.shape[1]) for k, (a, _) in ls.items()}
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_no_lora_of_this_base_is_refused_from_its_headers(
    layers, backbone, miniature_folder, tmp_path, says
):
    save_file(REFUSED[says](layers), tmp_path / "x.safetensors")
    for check in (
        lambda: QwenImage21.check_lora(tmp_path / "x.safetensors", miniature_folder),
        lambda: read_lora(
            tmp_path / "x.safetensors", QwenImage21.transformer_shapes(miniature_folder)
        ),
    ):
        with pytest.raises(BadLora, match=says):
            check()


def test_a_folder_of_several_weights_is_asked_which(tmp_path):
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="holds 2 files of weights .a.safetensors, b.safetensors"):
        is_lora(str(tmp_path))
