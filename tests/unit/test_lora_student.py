"""A student that is a LoRA: published, drawn by plain diffusers, exported, started from."""

import json
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from safetensors import safe_open

import flash_ray.workflows.export as module
from flash_ray.cli.tables import student_table
from flash_ray.errors import UserError
from flash_ray.evaluation.sample import student_sampler
from flash_ray.models.adapters import Adapted
from flash_ray.models.loading import load_model
from flash_ray.models.lora_source import LORA
from flash_ray.models.sampling import sample, velocity_of
from flash_ray.recipe import load_recipe
from flash_ray.serving.engine import Engine, LoadedModel, Prompt
from flash_ray.storage.students import list_students, publish_student, read_student
from flash_ray.trainer.networks import load_networks
from flash_ray.trainer.student_init import initial_student, validate_init, validate_targets
from flash_ray.workflows.export import export
from tests.helpers.small import build_base, publish
from tests.helpers.storage import MemoryStore

PROMPT = "a red house under a blue sky"
SHAPE = "student.lora={rank: 4, alpha: 8}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved pipeline whose scheduler shifts the sigmas of a call."""
    folder = build_base(tmp_path_factory.mktemp("base") / "pipeline")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"shift": 1.0', '"shift": 3.0'))
    return folder


def recipe_of(base, *overrides):
    fixed = [f"base={base}", "training.precision=fp32", "student.weights=lora", SHAPE]
    return load_recipe("miniature", [*fixed, *overrides])


def model_of(base, dtype=torch.float32):
    return load_model(str(base), dtype, "cpu", encoders=True)


def trained(base, dtype=torch.float32, seed=0):
    """(model, its student as a run leaves it: the averaged adapter with weights that matter)"""
    model = model_of(base, dtype)
    load_networks(recipe_of(base), model, MemoryStore("bucket", "", None))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.adapters.parameters("average"):
            weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
    return model, Adapted(model.adapters, "average")


def noise_of(model):
    shape = (1, 16, model.latent_channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def picture(model, transformer):
    conditions = model.encode([PROMPT], None, (64, 64))
    sampler = student_sampler(recipe_of("miniature").student.rungs)
    x = sample(model, transformer, conditions, noise_of(model), sampler)
    return model.to_images(x, conditions.layout)[0].astype(float)


@pytest.fixture(scope="module")
def student(base, tmp_path_factory):
    """(folder of the saved student, the picture it drew while it was trained)"""
    model, adapted = trained(base)
    folder = tmp_path_factory.mktemp("student") / "files"
    model.save_student(adapted, folder)
    drawn = picture(model, adapted)
    assert abs(drawn - picture(model, model.transformer)).mean() > 2
    return folder, drawn


@pytest.fixture
def store(base, student, monkeypatch, tmp_path):
    """The store of a LoRA, `mine`, and a whole transformer, `whole`; open to `export`."""
    monkeypatch.setenv("FLASH_RAY_CACHE", str(tmp_path / "node"))
    store = MemoryStore("bucket", "", None)
    publish_student(store, "mine", student[0], recipe_of(base))
    publish(store, load_recipe("miniature", [f"base={base}"]), "whole", tmp_path / "whole")

    @contextmanager
    def opened(address):
        yield store

    monkeypatch.setattr(module, "open_store", opened)
    return store


@pytest.mark.parametrize("merged", [False, True])
def test_plain_diffusers_draws_the_training_time_students_picture(base, student, merged):
    folder, drawn = student
    assert {path.name for path in folder.iterdir()} == {LORA, "scheduler"}
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    pipeline = QwenImage21Pipeline.from_pretrained(base, scheduler=scheduler)
    pipeline.load_lora_weights(folder)
    if merged:
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    sigmas = recipe_of(base).student.rungs
    noise = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))
    how = {"output_resolution": 64, "output_type": "np", "latents": noise}
    theirs = pipeline(PROMPT, sigmas=sigmas, **how).images[0][..., :3] * 255
    assert np.ptp(drawn) > 20
    assert abs(drawn - theirs).max() <= 1


def test_in_bf16_what_is_loaded_is_what_was_trained(base, tmp_path):
    model, adapted = trained(base, torch.bfloat16)
    model.save_student(adapted, tmp_path)
    again = model_of(base, torch.bfloat16)
    assert np.array_equal(picture(again, again.load_transformer(tmp_path)), picture(model, adapted))


@pytest.mark.parametrize("kind", ["base", "lora"])
def test_in_bf16_diffusers_pictures_differ_by_its_schedulers_rounding_alone(base, tmp_path, kind):
    model, adapted = trained(base, torch.bfloat16)
    model.save_student(adapted, tmp_path)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler")
    pipeline = QwenImage21Pipeline.from_pretrained(base, scheduler=scheduler, dtype=torch.bfloat16)
    if kind == "lora":
        pipeline.load_lora_weights(tmp_path)
    sigmas, conditions = recipe_of(base).student.rungs, model.encode([PROMPT], None, (64, 64))
    how = {"output_resolution": 64, "output_type": "latent", "sigmas": sigmas}
    theirs = pipeline(PROMPT, latents=noise_of(model), **how).images
    velocity = velocity_of(model, model.transformer if kind == "base" else adapted, conditions)
    x_BNC = noise_of(model).bfloat16()
    for now, after in pairwise(torch.tensor([*sigmas, 0.0])):
        with torch.no_grad():
            v_BNC = velocity(x_BNC, now.view(1))
        step_BNC = (after - now) * v_BNC  # in bf16, as the latents are; `sample` keeps both in fp32
        x_BNC = (x_BNC.float() + step_BNC).bfloat16()
    assert torch.equal(x_BNC, theirs)


def test_its_manifest_says_what_it_is(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    student_table(list_students(store)[0])
    mine, whole = (line for line in capsys.readouterr().out.splitlines() if "pipeline" in line)
    assert "(LoRA)" in mine and "(LoRA)" not in whole
    assert (read_student(store, "mine").kind, read_student(store, "whole").kind) == (
        "lora",
        "transformer",
    )


def test_it_is_loaded_onto_the_base_and_leaves_with_who_has_it(base, student):
    folder, drawn = student
    model = model_of(base)
    plain = picture(model, model.transformer)
    one = model.load_transformer(folder)
    assert abs(picture(model, one) - drawn).max() <= 1
    assert abs(picture(model, model.transformer) - plain).max() == 0
    two = model.load_transformer(folder)
    assert len(model.adapters.names) == 2
    del one
    three = model.load_transformer(folder)
    assert len(model.adapters.names) == 2
    assert abs(picture(model, two) - picture(model, three)).max() == 0


def test_its_card_has_plain_diffusers_draw_its_pictures(store, student, tmp_path):
    export("mine", tmp_path / "out", None, None, force=False)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model_relation: adapter" in card and "AutoModel" not in card
    code = card.partition("```python\n")[2].partition("```")[0]
    names = {"noise": torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(0))}
    given = "output_resolution=64, latents=noise, output_type='np', sigmas="
    exec(code.replace("sigmas=", given), names, names)
    assert abs(student[1] - names["image"][..., :3] * 255).max() <= 1


def test_it_is_exported_with_comfyuis_names(store, base, student, tmp_path):
    export("mine", tmp_path / "out", None, None, force=False, form="comfyui")
    file = tmp_path / "out" / "mine.safetensors"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {file.name, "recipe.yaml"}
    with safe_open(file, "pt") as opened:
        keys = {*opened.keys()}
        assert opened.metadata()["sigmas"].startswith("1.0, ")
    layer = "diffusion_model.transformer_blocks.0.attn.to_q"
    assert {f"{layer}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha")} <= keys
    model = model_of(base)
    model.add_lora(file, "it")
    assert abs(picture(model, Adapted(model.adapters, "it")) - student[1]).max() <= 1
    with pytest.raises(UserError, match="--format: comfyui with whole, a whole transformer"):
        export("whole", tmp_path / "other", None, None, force=False, form="comfyui")
    with pytest.raises(UserError, match="--push: given with --format comfyui"):
        export("mine", None, "a/b", None, force=False, form="comfyui")


@pytest.mark.parametrize("source", ["students/mine", "FOLDER", "FILE"])
def test_a_lora_student_starts_from_one(store, base, student, source):
    folder, drawn = student
    init = {"FOLDER": folder, "FILE": folder / LORA}.get(source, source)
    recipe = recipe_of(base, f"student.init={init}", "student.lora.alpha=4")
    model = model_of(base)
    networks = load_networks(recipe, model, store)
    assert len(networks.fingerprints) == 1 and "init" not in model.adapters.names
    for name in ("student", "fake_score"):
        starts = picture(model, Adapted(model.adapters, name))
        assert (abs(starts - drawn).max() <= 1) == (name == "student")
    learner, _ = networks.learners(1)
    with learner.average(0.5).averaged() as averaged:
        assert abs(picture(model, averaged) - drawn).max() <= 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["student.init=students/mine", "student.lora.rank=8"], "it has rank 4, not 8"),
        (
            ["student.init=students/mine", "student.lora.targets=[to_q]"],
            "it has other layers: ",
        ),
        (["student.init=students/whole"], "is a whole transformer, with student.weights lora"),
        (["student.init=BASE"], "is a whole transformer, with student.weights lora"),
        (["student.init=owner/name"], "there is no 'owner/name'; allowed: base, students/NAME"),
    ],
)
def test_what_it_cannot_start_from_is_one_line(store, base, overrides, says):
    overrides = [override.replace("BASE", str(base)) for override in overrides]
    with pytest.raises(UserError, match=f"^student.init: .*{says}") as caught:
        load_networks(recipe_of(base, *overrides), model_of(base), store)
    assert "\n" not in str(caught.value)


def test_a_full_student_does_not_start_from_one(store, base, student):
    for init in ("students/mine", student[0]):
        recipe = recipe_of(
            base, f"student.init={init}", "student.weights=full", "student.lora=null"
        )
        with pytest.raises(UserError, match="is a LoRA, with student.weights full; .*=lora$"):
            validate_init(recipe, store)
        with pytest.raises(UserError):
            initial_student(model_of(base), recipe, store)


def test_layers_that_are_not_there_are_refused(base):
    validate_targets(recipe_of(base, "student.lora.targets=[to_q, attn.to_out.0]"))
    with pytest.raises(UserError, match="student.lora.targets: 'toq' is no linear layer") as caught:
        validate_targets(recipe_of(base, "student.lora.targets=[toq]"))
    assert "to_q" in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_that_says_another_kind_is_corrupt(store):
    key = "students/mine/model.json"
    manifest = json.loads(store.get_bytes(key))
    store.put_bytes(key, json.dumps({**manifest, "kind": "transformer"}).encode())
    with pytest.raises(UserError, match="kind"):
        read_student(store, "mine")


def test_a_server_draws_with_each_of_its_loras_and_the_plain_base(base, student, tmp_path):
    other, adapted = trained(base, seed=1)
    other.save_student(adapted, tmp_path)
    engine = Engine(model_of(base), 2**24, 2**24)
    folders = {"mine": student[0], "other": tmp_path}
    loaded = {name: engine.base.load_transformer(folder) for name, folder in folders.items()}
    loaded["teacher"] = engine.base.transformer
    texts = [PROMPT, "a tree"]  # of two lengths: the second's cache is padded and turned
    prompts = engine.encode([Prompt(text, (), (64, 64)) for text in texts]).prompts
    sampler = student_sampler(recipe_of(base).student.rungs)
    drawn = {}
    for name, transformer in loaded.items():
        model = LoadedModel(name.ljust(16, "0"), transformer)
        together = engine.sample(model, sampler, prompts, [0, 0]).pictures_BHWC.astype(int)
        for row, prompt in enumerate(prompts):
            alone = engine.sample(model, sampler, [prompt], [0]).pictures_BHWC[0].astype(int)
            assert abs(together[row] - alone).max() <= 1, name
        drawn[name] = together[0]
    assert abs(drawn["mine"] - student[1]).max() <= 1
    assert abs(drawn["other"] - picture(other, adapted)).max() <= 1
    assert abs(drawn["teacher"] - picture(model_of(base), model_of(base).transformer)).max() <= 1
