"""The Qwen-Image-2.1 backbone against diffusers' own pipeline, on an untrained miniature."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flash_ray.errors import UserError
from flash_ray.miniature.pipeline import load_pipeline
from flash_ray.models import vae
from flash_ray.models.base import Condition, Layout, PromptCache
from flash_ray.models.loading import load_model
from flash_ray.models.qwen_image_21 import QwenImage21

PROMPTS = ["A red house", 'A blue tree on a dark field with the word "CAT"', "A green circle"]
SIZE = (64, 64)


def picture(seed, height=64, width=64):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def t2i(backbone):
    return backbone.encode(PROMPTS, None, SIZE)


@pytest.fixture(scope="module")
def edit(backbone):
    return backbone.encode(PROMPTS, [[picture(i)] for i in range(3)], SIZE)


def noise(batch, seed=0, tokens=16):
    return torch.randn(batch, tokens, 64, generator=torch.Generator().manual_seed(seed))


def test_upper_case_letters_are_single_tokens(backbone):
    tokens = backbone.pipeline.processor.tokenizer.tokenize('the word "CAT"')
    assert tokens[-4:] == ["C", "A", "T", '"']


def test_system_prompt_is_dropped_exactly(backbone):
    pipeline = backbone.pipeline
    system = f"<|im_start|>system\n{pipeline.sys_prompt}<|im_end|>\n"
    assert pipeline._drop_idx == len(pipeline.processor.tokenizer(system)["input_ids"])


def test_hidden_states_tell_tokens_apart(backbone):
    pipeline = backbone.pipeline
    text = pipeline.prompt_template_t2i.format(PROMPTS[1])
    ids = pipeline.processor.tokenizer(text, return_tensors="pt")["input_ids"][0]
    hidden_LD = backbone.encode([PROMPTS[1]], None, SIZE).positive.embeds_BLD[0]
    embeddings_VD = pipeline.text_encoder.get_input_embeddings().weight
    nearest = torch.cdist(hidden_LD, embeddings_VD).argmin(dim=1)
    assert torch.equal(nearest, ids[pipeline._drop_idx :])


def test_t2i_condition_equals_encode_prompt(backbone, t2i):
    embeds, mask, slots = backbone.pipeline.encode_prompt(PROMPTS)
    assert torch.equal(t2i.positive.embeds_BLD, embeds)
    assert torch.equal(t2i.positive.mask_BL, mask.bool())
    assert not t2i.positive.slots_BL.any() and not slots.any()
    assert t2i.positive.references_BNC is None
    assert len(t2i) == len(t2i.negative) == 3
    empty, _, _ = backbone.pipeline.encode_prompt([""])
    assert torch.equal(t2i.negative.embeds_BLD, empty.expand(3, -1, -1))


def test_edit_condition_equals_encode_prompt_case_by_case(backbone, edit):
    assert edit.layout == Layout("edit", 64, 64, ((64, 64),))
    for i, prompt in enumerate(PROMPTS):
        for condition, text in ((edit.positive, prompt), (edit.negative, "")):
            image = picture(i).convert("RGBA")
            embeds, _, slots = backbone.pipeline.encode_prompt([text], image=[image])
            length = embeds.shape[1]
            read = embeds[0].masked_fill(slots[0].bool()[:, None], 0)  # by the transformer
            # A batch is padded and rounds its sums in another order.
            torch.testing.assert_close(condition.embeds_BLD[i, :length], read, rtol=1e-4, atol=1e-4)
            assert torch.equal(condition.slots_BL[i, :length], slots[0])
            assert condition.mask_BL[i].sum() == length
    assert edit.positive.slots_BL[0].sum() == 4  # 2x2 slots of 2x2 latent tokens
    torch.testing.assert_close(
        edit.positive.references_BNC, backbone.to_latents([picture(i) for i in range(3)])
    )


def test_pictures_and_prompts_coded_one_by_one_are_those_of_a_batch(backbone, edit, monkeypatch):
    images = backbone.to_images(edit.positive.references_BNC, edit.layout)
    monkeypatch.setattr(vae, "PIXELS", 1)
    alone = backbone.encode(PROMPTS, [[picture(i)] for i in range(3)], SIZE)
    for side in ("positive", "negative"):
        got, expected = getattr(alone, side).tensors(), getattr(edit, side).tensors()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, atol=1e-4, rtol=1e-4)
    one_by_one = backbone.to_images(edit.positive.references_BNC, edit.layout)
    assert abs(one_by_one.astype(int) - images).max() <= 1


def test_references_keep_their_aspect_ratio_at_the_area_of_the_output(backbone):
    conditioned = backbone.encode(["Make it red"], [[picture(0), picture(1, 32, 128)]], SIZE)
    assert conditioned.layout.references == ((64, 64), (32, 128))
    assert conditioned.positive.references_BNC.shape == (1, 32, backbone.latent_channels)
    v = backbone.velocity(backbone.transformer, noise(1), torch.ones(1), conditioned.positive)
    assert v.shape == (1, 16, backbone.latent_channels)


@pytest.mark.parametrize("task", ["t2i", "edit"])
@torch.no_grad()
def test_cached_and_uncached_velocities_agree(backbone, task, request):
    condition = request.getfixturevalue(task).positive
    assert not condition.mask_BL.all(), "the batch must be padded for this test to mean anything"
    prefix = PromptCache()
    for seed, t in enumerate((1.0, 0.6, 0.1)):
        x, t_B = noise(3, seed), torch.tensor([t, 0.9 * t, 0.8 * t])
        plain = backbone.velocity(backbone.transformer, x, t_B, condition)
        cached = backbone.velocity(backbone.transformer, x, t_B, condition, prefix)
        torch.testing.assert_close(cached, plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_velocity_depends_on_prompt_reference_and_time(backbone, edit):
    x, ones = noise(1).expand(3, -1, -1), torch.ones(3)
    v = backbone.velocity(backbone.transformer, x, ones, edit.positive)
    other_time = backbone.velocity(backbone.transformer, x, 0.3 * ones, edit.positive)
    same_picture = edit.positive.references_BNC[:1].expand(3, -1, -1)
    condition = Condition.from_tensors(
        edit.layout, {**edit.positive.tensors(), "references_BNC": same_picture}
    )
    other_reference = backbone.velocity(backbone.transformer, x, ones, condition)
    for a, b in ((v[0], v[1]), (v, other_time), (v[1], other_reference[1])):
        assert (a - b).abs().mean() > 0.01 * v.abs().mean()


def test_prefix_is_not_used_while_gradients_are_on(backbone, t2i):
    prefix, x, t_B = PromptCache(), noise(3), torch.full((3,), 0.5)
    grads = []
    for use in (None, prefix):
        transformer = backbone.copy_transformer()
        with torch.no_grad():
            backbone.velocity(transformer, x, t_B, t2i.positive, use)
        backbone.velocity(transformer, x, t_B, t2i.positive, use).square().mean().backward()
        grads.append(transformer.txt_in.in_layer.weight.grad)
    assert prefix.layers is not None
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1])


def test_a_prefix_with_its_graph_gives_the_same_gradients(backbone, t2i):
    grads = []
    for prefix in (None, PromptCache(graph=True)):
        transformer = backbone.copy_transformer()
        loss = 0.0
        for seed, t in enumerate((0.2, 0.7)):
            t_B = torch.full((3,), t)
            v = backbone.velocity(transformer, noise(3, seed), t_B, t2i.positive, prefix)
            loss = loss + v.square().mean()
        loss.backward()
        grads.append([value.grad for value in transformer.parameters()])
    assert prefix.layers is not None
    for plain, cached in zip(*grads, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(cached, plain, atol=1e-6, rtol=1e-3)


@torch.no_grad()
def test_velocity_works_through_an_engine_and_in_bf16(backbone, t2i):
    class Engine(torch.nn.Module):  # as DeepSpeedEngine: `module` inside, `config` of its own
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.config = {}

        def forward(self, **kwargs):
            return self.module(**kwargs)

    x, t_B = noise(3), torch.full((3,), 0.5)
    plain = backbone.velocity(backbone.transformer, x, t_B, t2i.positive)
    engine = Engine(backbone.transformer)
    assert torch.equal(backbone.velocity(engine, x, t_B, t2i.positive, PromptCache()), plain)
    half = Engine(backbone.copy_transformer().to(torch.bfloat16))
    rounded = backbone.velocity(half, x, t_B, t2i.positive)
    assert rounded.dtype == torch.float32
    # Rounding the random weights alone moves the output by 5 to 7 %.
    assert (rounded - plain).abs().mean() < 0.1 * plain.abs().mean()


def test_copy_is_trainable_and_the_base_is_frozen(backbone):
    trainable = backbone.copy_transformer()
    assert all(p.requires_grad for p in trainable.parameters())
    assert not any(p.requires_grad for p in backbone.transformer.parameters())
    with torch.no_grad():
        next(trainable.parameters()).add_(1.0)
    assert not torch.equal(next(trainable.parameters()), next(backbone.transformer.parameters()))


def test_rows_cat_and_file_round_trip(t2i, edit, tmp_path):
    parts = [t2i.rows([0, 2]), t2i.rows([1])]
    again = type(t2i).cat(parts).rows([0, 2, 1])
    assert torch.equal(again.positive.embeds_BLD, t2i.positive.embeds_BLD)
    save_file(edit.positive.tensors(), tmp_path / "condition.safetensors")
    loaded = Condition.from_tensors(edit.layout, load_file(tmp_path / "condition.safetensors"))
    for name, value in edit.positive.tensors().items():
        assert torch.equal(loaded.tensors()[name], value)
    with pytest.raises(ValueError, match="one layout per batch"):
        Condition.cat([t2i.positive, edit.positive])


def test_cat_pads_with_masked_positions(backbone):
    short, long = (backbone.encode([p], None, SIZE).positive for p in PROMPTS[:2])
    joined = Condition.cat([short, long])
    lengths = [short.embeds_BLD.shape[1], long.embeds_BLD.shape[1]]
    assert joined.mask_BL.sum(dim=1).tolist() == lengths
    assert joined.embeds_BLD[0, lengths[0] :].abs().max() == 0


@pytest.mark.parametrize(
    "arguments", [("t2i", 48, 64), ("t2i", 64, 64, ((64, 64),)), ("edit", 64, 64), ("t2i", 0, 64)]
)
def test_impossible_layouts_are_refused(arguments):
    with pytest.raises(ValueError):
        Layout(*arguments)


def test_layout_tokens():
    assert Layout("t2i", 64, 96).tokens == 24


def test_images_and_latents_have_the_stated_shapes(backbone):
    x = backbone.to_latents([picture(0, 64, 96), picture(1, 64, 96)])
    assert x.shape == (2, 24, backbone.latent_channels)
    images = backbone.to_images(x, Layout("t2i", 64, 96))
    assert images.shape == (2, 64, 96, 3) and images.dtype == np.uint8


def test_latents_are_normalized_with_the_statistics_of_the_vae(miniature_folder, backbone):
    pipeline = load_pipeline(miniature_folder)
    pipeline.vae.register_to_config(latents_mean=[0.5] * 64, latents_std=[2.0] * 64)
    other = QwenImage21(pipeline)
    x = backbone.to_latents([picture(0)])
    torch.testing.assert_close(other.to_latents([picture(0)]), (x - 0.5) / 2.0)
    layout = Layout("t2i", 64, 64)
    difference = other.to_images((x - 0.5) / 2.0, layout).astype(int) - backbone.to_images(
        x, layout
    )
    assert abs(difference).max() <= 1


def test_without_encoders_it_predicts_but_does_not_encode(miniature_folder, backbone, t2i):
    light = QwenImage21.from_pretrained(miniature_folder, encoders=False)
    assert light.pipeline.text_encoder is None
    x, t_B = noise(3), torch.full((3,), 0.5)
    with torch.no_grad():
        assert torch.equal(
            light.velocity(light.transformer, x, t_B, t2i.positive),
            backbone.velocity(backbone.transformer, x, t_B, t2i.positive),
        )
    with pytest.raises(ValueError, match="encoders=True"):
        light.encode(["A red house"], None, SIZE)


def test_transformer_folder_loads_frozen(miniature_folder, backbone, tmp_path):
    loaded = backbone.load_transformer(miniature_folder / "transformer")
    assert not any(p.requires_grad for p in loaded.parameters())
    expected = backbone.transformer.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(UserError, match="nothing-here"):
        backbone.load_transformer(tmp_path / "nothing-here")


def test_a_missing_base_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="base: no pipeline in .*nothing-here"):
        load_model(str(tmp_path / "nothing-here"), torch.float32, "cpu", encoders=False)
    with pytest.raises(UserError, match="base: cannot load .*model_index.json") as caught:
        QwenImage21.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="FluxPipeline.*allowed: QwenImage21Pipeline"):
        load_model(str(tmp_path), torch.float32, "cpu", encoders=False)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match="model_index.json cannot be read"):
        load_model(str(tmp_path), torch.float32, "cpu", encoders=False)


def test_a_truncated_base_model_is_refused(miniature_folder, tmp_path):
    folder = tmp_path / "truncated"
    shutil.copytree(miniature_folder, folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="base: cannot load .*truncated"):
        QwenImage21.from_pretrained(folder)


def test_a_part_from_a_package_that_registers_no_plug_in_is_not_imported(
    miniature_folder, tmp_path, monkeypatch
):
    index = json.loads((miniature_folder / "model_index.json").read_text())
    folder = shutil.copytree(miniature_folder, tmp_path / "folder")
    index["processor"] = ["foreign.parts", "Processor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "parts.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="base: cannot load .*foreign.parts"):
        QwenImage21.from_pretrained(folder)


def test_a_decoder_has_the_images_of_the_whole_model(miniature_folder, backbone, t2i):
    light = QwenImage21.from_pretrained(miniature_folder, encoders=False, transformer=False)
    x, t_B = noise(3), torch.full((3,), 0.5)
    layout = Layout("t2i", *SIZE)
    assert light.transformer is None
    assert np.array_equal(light.to_images(x, layout), backbone.to_images(x, layout))
    with torch.no_grad():
        assert torch.equal(
            light.velocity(backbone.transformer, x, t_B, t2i.positive),
            backbone.velocity(backbone.transformer, x, t_B, t2i.positive),
        )


def test_a_large_picture_is_decoded_in_tiles(backbone, monkeypatch):
    monkeypatch.setattr(vae, "WHOLE", 64 * 64)
    monkeypatch.setattr(vae, "TILE", 64)
    monkeypatch.setattr(vae, "STRIDE", 48)
    layout = Layout("t2i", 128, 96)
    x_BNC, sizes = noise(1, tokens=layout.tokens), []
    decoder = backbone.pipeline.vae.decoder
    watch = decoder.register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-2:]))
    tiled = backbone.to_images(x_BNC, layout)
    assert sizes and all(max(size) <= 4 for size in sizes)
    sizes.clear()
    monkeypatch.setattr(vae, "WHOLE", 128 * 96)
    whole = backbone.to_images(x_BNC, layout)
    watch.remove()
    assert [tuple(size) for size in sizes] == [(8, 6)]
    assert tiled.shape == whole.shape == (1, 128, 96, 3)
