"""The patched transformer of Qwen-Image-2.1 against diffusers' own: velocities and gradients."""

import pytest
import torch
from diffusers.models.transformers import transformer_qwenimage21 as original

from flash_ray.models.adapters import Adapters
from flash_ray.models.base import PromptCache
from tests.benchmarks.gpu.networks import SIGMAS, TINY, as_model, build_transformer, conditions_of
from tests.benchmarks.gpu.peer import plain_velocity

CPU = torch.device("cpu")
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj", "out", "gate_layer")


@pytest.fixture(scope="module")
def model():
    config = {**TINY.transformer, "num_layers": 3}
    transformer = build_transformer(config, torch.float32, CPU)
    generator = torch.Generator().manual_seed(1)
    for weight in transformer.parameters():  # large enough for texts and times to matter
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)
    return as_model(transformer)


@pytest.fixture(scope="module", params=["t2i", "edit", "edit, padded"])
def condition(request, model):
    task, *padded = request.param.split(", ")
    condition = conditions_of(task, TINY, 64, CPU).positive.to(dtype=torch.float32)
    condition = condition.rows([0, 0])
    condition.embeds_BLD[1] *= 0.9
    if padded:
        condition.mask_BL[1, -3:] = False
    condition.embeds_BLD[condition.slots_BL] = 0
    return condition


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 16, 64, generator=generator), torch.rand(2, generator=generator)


def student_loss(velocity):
    """Two velocities without gradients, then one with them that depends on what they were."""
    x, t = inputs(0)
    with torch.no_grad():
        x = x - 0.3 * velocity(x, t)
        x = x - 0.3 * velocity(x, 0.7 * t)
    return (x - 0.5 * velocity(x, 0.4 * t)).square().mean()


def graded(parameters, loss):
    parameters = list(parameters)
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    return [loss.detach(), *[parameter.grad.clone() for parameter in parameters]]


def close(ours, theirs):
    for mine, its in zip(ours, theirs, strict=True):
        assert its.abs().max() > 0
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=2e-5)


@torch.no_grad()
def test_it_answers_as_the_original_whatever_is_cached(model, condition):
    cache = PromptCache()
    for seed in range(3):
        x, t = inputs(seed)
        theirs = plain_velocity(model.transformer, x, t, condition)
        for kept in (None, cache, PromptCache(graph=True)):
            ours = model.velocity(model.transformer, x, t, condition, kept)
            torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_gradients_of_all_weights_are_the_originals(model, condition, again):
    transformer = model.copy_transformer()
    theirs = graded(
        transformer.parameters(),
        student_loss(lambda x, t: plain_velocity(transformer, x, t, condition)),
    )
    if again:
        transformer.enable_gradient_checkpointing()
    for cache in (None, PromptCache(), PromptCache(graph=True)):
        ours = student_loss(lambda x, t, c=cache: model.velocity(transformer, x, t, condition, c))
        close(graded(transformer.parameters(), ours), theirs)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_gradients_of_a_lora_are_the_originals(model, condition, again):
    transformer = model.copy_transformer()
    adapters = Adapters(transformer)
    for number, name in enumerate(("student", "other")):
        adapters.add(name, 2, 2, TARGETS, seed=number)
        for parameter in adapters.parameters(name):
            torch.nn.init.normal_(parameter, std=0.3)
    parameters = adapters.parameters("student")
    # In the last block the text's queries and feed-forward layers are not read.
    with adapters.use("student"):
        loss = student_loss(lambda x, t: plain_velocity(transformer, x, t, condition))
        theirs = graded(parameters, loss)
    if again:
        adapters.enable_gradient_checkpointing()
    for cache in (None, PromptCache(graph=True)):
        with adapters.use("student"):
            loss = student_loss(
                lambda x, t, c=cache: model.velocity(transformer, x, t, condition, c)
            )
        with adapters.use("other"), torch.no_grad():  # another's turn between the two passes
            model.velocity(transformer, *inputs(5), condition)
        with adapters.use("student"):
            close(graded(parameters, loss), theirs)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers(model, condition):
    compiled = as_model(model.copy_transformer().eval())
    compiled.compile_blocks()
    of_compiled, of_plain = [], []
    for each, found in ((compiled, of_compiled), (model, of_plain)):
        transformer = each.copy_transformer()
        adapters = Adapters(transformer)
        adapters.add("student", 2, 2, TARGETS)
        for number, parameter in enumerate(adapters.parameters("student")):
            generator = torch.Generator().manual_seed(number)
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        with adapters.use("student"):
            cache = PromptCache(graph=True)
            loss = student_loss(
                lambda x, t, c=cache, e=each, n=transformer: e.velocity(n, x, t, condition, c)
            )
            found += graded(adapters.parameters("student"), loss)
    close(of_compiled, of_plain)


def test_what_it_saves_is_the_originals(model, tmp_path):
    model.transformer.save_pretrained(tmp_path)
    loaded = original.QwenImage21Transformer2DModel.from_pretrained(tmp_path)
    assert type(loaded) is original.QwenImage21Transformer2DModel
    assert loaded.config["_class_name"] == "QwenImage21Transformer2DModel"
    assert loaded.state_dict().keys() == model.transformer.state_dict().keys()


def test_no_call_waits_for_the_device(model, condition, monkeypatch):
    model.velocity(model.transformer, *inputs(0), condition)  # plans
    moved = condition.to(dtype=torch.float32)
    for name in ("item", "tolist", "__bool__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("it waits"))
    cache = PromptCache(graph=True)
    for _ in SIGMAS:
        model.velocity(model.transformer, *inputs(0), moved, cache)
