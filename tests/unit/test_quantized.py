"""LoRA students on a base in fewer bits: diffusers' numbers, own gradients, usual students."""

import copy

import numpy as np
import pytest
import torch
from diffusers import BitsAndBytesConfig, TorchAoConfig
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Transformer2DModel
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.quantizers.bitsandbytes import BnB4BitDiffusersQuantizer
from torch.autograd.graph import saved_tensors_hooks
from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

from flash_ray import plugins
from flash_ray.errors import UserError
from flash_ray.evaluation.sample import student_sampler
from flash_ray.models.adapters import Adapted
from flash_ray.models.base import Condition, ConditionPair, Layout
from flash_ray.models.loading import load_model, validate_quantizer
from flash_ray.models.lora_source import LORA
from flash_ray.models.quantized import QuantizedLinear, quantize
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.models.qwen_image_21_patch import patched
from flash_ray.models.sampling import sample
from flash_ray.recipe import load_recipe
from flash_ray.storage.students import publish_student, read_student
from flash_ray.teachers.local import InProcessTeachers
from flash_ray.teachers.protocol import groups
from flash_ray.teachers.scorer import fingerprint, group_scorer
from flash_ray.trainer.networks import load_networks
from flash_ray.trainer.setup import load_base, teachers_here
from tests.helpers.gaussian import randn
from tests.helpers.small import SMALL_TRANSFORMER, build_base, untrained_pipeline
from tests.helpers.storage import MemoryStore

FORMS = ("fp8", "int8", "nf4")
# Relative errors of a velocity of the small base.
ERRORS = {"fp8": 0.05, "int8": 0.02, "nf4": 0.2}
PROMPT = "a red house under a blue sky"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "pipeline")


def recipe_of(base, form, *overrides):
    fixed = [f"base={base}", "student.weights=lora", "student.lora={rank: 4}"]
    precision = [f"training.base_precision={form}", "training.precision=fp32"]
    return load_recipe("miniature", [*fixed, *precision, *overrides])


def model_of(base, form=None, dtype=torch.float32, encoders=False):
    model = load_model(str(base), dtype, "cpu", encoders=encoders)
    if form:
        quantize(model, form, "cpu")
    return model


def condition_of(model):
    width = model.transformer.config.context_in_dim
    mask = torch.ones(2, 5, dtype=torch.bool)
    return Condition(Layout("t2i", 64, 64), randn(2, 5, width, seed=7), mask, ~mask)


def velocity(model, transformer):
    x_BNC = randn(2, 16, model.latent_channels, seed=8)
    return model.velocity(transformer, x_BNC, torch.tensor([0.3, 0.8]), condition_of(model))


def with_students(model, base, form, scale=0.1):
    """The networks of a run, each with weights that matter."""
    networks = load_networks(recipe_of(base, form), model, MemoryStore("bucket", "", None))
    for seed, name in enumerate(("student", "fake_score", "average")):
        with torch.no_grad():
            for index, weight in enumerate(model.adapters.parameters(name)):
                weight.copy_(scale * randn(*weight.shape, seed=100 * seed + index))
    return networks


def unpacked(model):
    """A copy of a quantized model whose layers have the unpacked weights."""
    plain = copy.deepcopy(model)
    for name, layer in list(plain.transformer.named_modules()):
        if isinstance(layer, QuantizedLinear):
            linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
            linear.weight = torch.nn.Parameter(layer.unpacked())
            plain.transformer.set_submodule(name, linear)
    return plain


def test_it_is_the_base_that_diffusers_quantizes(tmp_path, monkeypatch):
    wide = {**SMALL_TRANSFORMER, "num_attention_heads": 8}  # bitsandbytes on a CPU wants 64s
    untrained_pipeline([PROMPT], wide).to(torch.bfloat16).save_pretrained(tmp_path)
    others = ["time_text_embed", "txt_in", "img_in", "modulation", "norm_out", "proj_out"]
    configs = {
        "fp8": TorchAoConfig(Float8WeightOnlyConfig(), modules_to_not_convert=others),
        "int8": TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=others),
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=others,
        ),
    }
    # It refuses to work without a GPU, and can.
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None)
    plain = velocity(model_of(tmp_path, dtype=torch.bfloat16), load_bf16(tmp_path))
    for form in FORMS:
        ours = model_of(tmp_path, form, torch.bfloat16)
        where = {"device_map": {"": "cpu"}} if form == "nf4" else {}  # else a GPU is taken
        theirs = load_bf16(tmp_path, quantization_config=configs[form], **where)
        got = velocity(ours, ours.transformer)
        torch.testing.assert_close(got, velocity(ours, theirs), rtol=0, atol=0, msg=form)
        assert 0 < (got - plain).norm() / plain.norm() < ERRORS[form], form


def load_bf16(folder, **given):
    transformer = QwenImage21Transformer2DModel.from_pretrained(
        folder, subfolder="transformer", torch_dtype=torch.bfloat16, **given
    )
    return patched(transformer)


@pytest.mark.parametrize("form", FORMS)
def test_only_linear_layers_of_the_blocks_are_quantized(base, form):
    model = model_of(base, form)
    layers = {
        name
        for name, part in model.transformer.named_modules()
        if isinstance(part, QuantizedLinear)
    }
    assert layers == {*model.lora_targets}
    assert not any(weight.requires_grad for weight in model.transformer.parameters())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_each_loras_gradients_are_those_on_the_unpacked_base(base, form, recompute):
    model = model_of(base, form)
    plain = unpacked(model)
    learners = []
    for each in (model, plain):
        networks = with_students(each, base, form)
        if recompute:
            each.adapters.enable_gradient_checkpointing()
        learners.append(networks.learners(1))
    for ours, theirs in zip(*learners, strict=True):
        got, wanted = velocity(model, ours), velocity(plain, theirs)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        ours.backward(got.square().mean())
        theirs.backward(wanted.square().mean())
        assert theirs.master.grad.abs().max() > 0
        torch.testing.assert_close(ours.master.grad, theirs.master.grad, rtol=1e-4, atol=1e-6)
    student, fake_score = learners[0]
    before = fake_score.master.clone()
    student.step()
    assert torch.equal(fake_score.master, before) and student.grad_norm > 0


@pytest.mark.parametrize("form", FORMS)
def test_no_unpacked_weight_is_kept_for_the_backward_pass(base, form):
    def kept(model):
        with_students(model, base, form)
        weights = {weight.data_ptr() for weight in model.transformer.parameters()}
        saved = {}

        def keep(tensor):
            if tensor.data_ptr() not in weights:
                saved[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            velocity(model, Adapted(model.adapters, "student"))
        return sum(saved.values())

    assert kept(model_of(base, form)) <= kept(model_of(base))


@pytest.mark.parametrize("form", FORMS)
def test_loras_work_in_the_activations_precision(base, form, tmp_path):
    model = model_of(base, form, torch.bfloat16)
    with_students(model, base, form)
    model.save_student(Adapted(model.adapters, "student"), tmp_path)
    model.add_lora(tmp_path / LORA, "teacher")
    for name in ("student", "teacher"):
        assert all(w.dtype == torch.bfloat16 for w in model.adapters.parameters(name))
    velocities = [velocity(model, Adapted(model.adapters, name)) for name in ("student", "teacher")]
    assert torch.equal(*velocities)


def picture(model, transformer, recipe):
    conditions = model.encode([PROMPT], None, (64, 64))
    noise = randn(1, 16, model.latent_channels, seed=3)
    x = sample(model, transformer, conditions, noise, student_sampler(recipe.student.rungs))
    return model.to_images(x, conditions.layout)[0].astype(float)


@pytest.mark.parametrize("form", FORMS)
def test_a_student_is_published_for_the_base_as_it_was(base, form, tmp_path):
    recipe = recipe_of(base, form)
    model = model_of(base, form, encoders=True)
    with_students(model, base, form, 0.3)
    drawn = picture(model, Adapted(model.adapters, "average"), recipe)
    model.save_student(Adapted(model.adapters, "average"), tmp_path / "student")
    store = MemoryStore("bucket", "", None)
    publish_student(store, "mine", tmp_path / "student", recipe)
    student = read_student(store, "mine")
    assert (student.kind, student.base_precision) == ("lora", form)
    assert student.recipe["training"]["base_precision"] == form
    whole = model_of(base, encoders=True)
    theirs = picture(whole, whole.load_transformer(tmp_path / "student"), recipe)
    plain = picture(whole, whole.transformer, recipe)
    # Nearer to what it drew on the quantized base than to what the base draws without it.
    assert abs(theirs - drawn).mean() < abs(theirs - plain).mean() / 2
    pipeline = QwenImage21Pipeline.from_pretrained(base)
    pipeline.load_lora_weights(tmp_path / "student")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    merged = QwenImage21(pipeline)
    assert abs(picture(merged, merged.transformer, recipe) - theirs).max() <= 1


def test_a_student_on_a_quantized_base_starts_from_a_lora(base, tmp_path):
    model = model_of(base, "nf4")
    with_students(model, base, "nf4")
    model.save_student(Adapted(model.adapters, "average"), tmp_path)
    wanted = velocity(model, Adapted(model.adapters, "average"))
    again = model_of(base, "nf4")
    recipe = recipe_of(base, "nf4", f"student.init={tmp_path}")
    networks = load_networks(recipe, again, MemoryStore("bucket", "", None))
    assert len(networks.fingerprints) == 1
    got = velocity(again, Adapted(again.adapters, "student"))
    torch.testing.assert_close(got, wanted)


def test_a_library_that_is_missing_is_named_with_its_extra(base, monkeypatch):
    for form in FORMS:
        validate_quantizer(recipe_of(base, form))
    monkeypatch.setattr(plugins, "find_spec", lambda module: None)
    for form, library in {"fp8": "torchao", "int8": "torchao", "nf4": "bitsandbytes"}.items():
        recipe = recipe_of(base, form)
        assert recipe.extras == (library,)
        says = rf"^training.base_precision: {form}: {library} is not installed; run `pip install "
        with pytest.raises(UserError, match=says + rf"'flash-ray\[{library}\]'`"):
            validate_quantizer(recipe)
    validate_quantizer(recipe_of(base, "null"))


def test_quantized_weights_stay_what_they_are(base):
    model = model_of(base, "nf4", torch.bfloat16)
    with torch.no_grad():
        first = velocity(model, model.transformer)
        again = velocity(model, model.transformer.train().eval())
    assert np.array_equal(first.numpy(), again.numpy())


@pytest.mark.parametrize("shares", [False, True])
def test_teachers_in_a_worker_answer_from_the_base_that_the_recipe_says(base, shares):
    place = f"teacher_defaults={{placement: in_process, quantized: {str(shares).lower()}}}"
    recipe = recipe_of(base, "int8", place)
    loaded = load_base(recipe, torch.device("cpu"), vae=False)
    plain = model_of(base)
    assert loaded.weights == fingerprint(plain.transformer)
    (group,) = groups(recipe)
    weights, teachers = teachers_here(recipe, group, loaded, torch.device("cpu"))
    assert weights == loaded.weights
    expected = loaded.model if shares else plain
    velocities = []
    for each in (teachers, InProcessTeachers(group_scorer(recipe, group, expected))):
        condition = condition_of(expected)
        each.prefill(0, ConditionPair(condition, condition), [0])
        x_BNC = randn(2, 16, expected.latent_channels, seed=8)
        velocities.append(each.score(0, x_BNC, torch.tensor([0.3, 0.8])).result()[0])
    torch.testing.assert_close(*velocities, rtol=0, atol=0)
