"""Adapters on a shared base are what full copies are, and keep their gradients."""

import copy

import pytest
import torch

from flash_ray.models.adapters import Adapters
from flash_ray.models.base import Condition, Layout
from flash_ray.models.lora_source import lora_file
from flash_ray.models.qwen_image_21 import QwenImage21
from flash_ray.recipe.sections import Adam
from flash_ray.trainer.adapter_learner import AdapterEMA, AdapterLearner
from tests.helpers.gaussian import randn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj", "out", "gate_layer")
ADAM = Adam(lr=1e-3, betas=(0.9, 0.99))
TOLERANCE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def base(backbone):
    """A copy of the miniature's transformer that the test may change."""
    return copy.deepcopy(backbone.transformer)


def with_adapters(base, *names, **given):
    adapters = Adapters(base)
    for number, name in enumerate(names):
        adapters.add(name, 4, 8, TARGETS, seed=number, **given)
        with torch.no_grad():
            for index, weight in enumerate(adapters.parameters(name)):
                weight.copy_(0.1 * randn(*weight.shape, seed=100 * number + index))
    return adapters


def condition():
    embeds = randn(2, 5, 128, seed=7)
    mask = torch.ones(2, 5, dtype=torch.bool)
    return Condition(Layout("t2i", 64, 64), embeds, mask, torch.zeros_like(mask))


def velocity(backbone, transformer):
    x, t = randn(2, 16, 64, seed=8), torch.tensor([0.3, 0.8])
    return backbone.velocity(transformer, x, t, condition())


def gradients(adapters, name):
    return [weight.grad for weight in adapters.parameters(name)]


def test_adapters_give_the_velocities_and_gradients_of_full_copies(backbone, base):
    copies = {
        name: (with_adapters(copy.deepcopy(base), "student", "fake"), name)
        for name in ("student", "fake")
    }
    shared = with_adapters(base, "student", "fake")
    plain = velocity(backbone, backbone.transformer)
    with shared.use(None):
        torch.testing.assert_close(velocity(backbone, base), plain, **TOLERANCE)
    for name in ("student", "fake", "student"):
        alone, _ = copies[name]
        with alone.use(name):
            expected = velocity(backbone, alone.transformer)
        with shared.use(name):
            got = velocity(backbone, base)
        assert (expected - plain).abs().max() > 1e-2
        torch.testing.assert_close(got, expected, **TOLERANCE)
        expected.square().mean().backward()
        got.square().mean().backward()
        pairs = zip(gradients(shared, name), gradients(alone, name), strict=True)
        for ours, theirs in pairs:
            assert theirs.abs().max() > 0
            torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_adapter_keeps_its_gradient_while_another_is_active(backbone, base, recompute):
    adapters = with_adapters(base, "student", "fake")
    with adapters.use("student"):
        velocity(backbone, base).square().mean().backward()
    expected = [gradient.clone() for gradient in gradients(adapters, "student")]
    for weight in adapters.parameters("student"):
        weight.grad = None
    if recompute:
        adapters.enable_gradient_checkpointing()
    with adapters.use("student"):
        loss = velocity(backbone, base).square().mean()
    with adapters.use("fake"), torch.no_grad():
        velocity(backbone, base)
    with adapters.use("fake"):
        loss.backward()
        assert adapters.active == "fake"
    for got, wanted in zip(gradients(adapters, "student"), expected, strict=True):
        torch.testing.assert_close(got, wanted, **TOLERANCE)
    assert gradients(adapters, "fake") == [None] * len(expected)
    assert not any(
        weight.requires_grad for name, weight in base.named_parameters() if "lora" not in name
    )


def test_use_restores_what_was_active_also_after_an_error(base):
    adapters = with_adapters(base, "student", "fake")
    assert adapters.active is None
    with adapters.use("student"):
        with adapters.use("fake"):
            with adapters.use(None):
                assert adapters.active is None
            assert adapters.active == "fake"
        with pytest.raises(RuntimeError), adapters.use(None):
            raise RuntimeError
        assert adapters.active == "student"
        assert all(layer.active_adapters == ["student"] for layer in adapters._layers)
    assert adapters.active is None
    with pytest.raises(ValueError, match="no adapter 'teacher'; there are student, fake"):
        with adapters.use("teacher"):
            pass


def test_ownership_decides_what_is_trained(backbone, base, lora_folder):
    adapters = with_adapters(base, "student")
    adapters.add("ema", 4, 8, TARGETS, trainable=False)
    model = QwenImage21(
        backbone.pipeline.__class__(**{**backbone.pipeline.components, "transformer": base})
    )
    model.add_lora(lora_file(str(lora_folder)), "teacher")  # freezes all, and activates
    adapters.adopt()
    for name in adapters.names:
        with adapters.use(name):
            for owner, expected in (("student", True), ("ema", False), ("teacher", False)):
                weights = adapters.parameters(owner)
                assert all(weight.requires_grad == expected for weight in weights), (name, owner)
    assert adapters.names == ("student", "ema", "teacher")
    with adapters.use("teacher"):
        taught = velocity(backbone, base)
    assert (taught - velocity(backbone, backbone.transformer)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="not trained"):
        AdapterLearner(adapters, "teacher", ADAM)


def test_a_new_adapter_changes_nothing_and_is_drawn_by_its_seed(backbone, base):
    state = torch.random.get_rng_state()
    adapters = Adapters(base)
    adapters.add("one", 4, 8, TARGETS, seed=1)
    adapters.add("same", 4, 8, TARGETS, seed=1)
    adapters.add("other", 4, 8, TARGETS, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    with adapters.use("one"):
        torch.testing.assert_close(
            velocity(backbone, base), velocity(backbone, backbone.transformer), **TOLERANCE
        )
    one, same, other = (adapters.parameters(name)[0] for name in ("one", "same", "other"))
    assert torch.equal(one, same) and not torch.equal(one, other)
    with pytest.raises(ValueError, match="already"):
        adapters.add("one", 4, 8, TARGETS)


def test_a_learner_takes_adamws_steps_on_the_mean_of_its_passes(backbone, base):
    other = with_adapters(copy.deepcopy(base), "student")
    weights = other.parameters("student")
    expected = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    adapters = with_adapters(base, "student")
    learner = AdapterLearner(adapters, "student", ADAM, max_grad_norm=0.01, passes=2)
    for step in range(3):
        for scale in (1.0, 3.0):
            learner.backward(scale * velocity(backbone, learner).square().mean())
            learner.step()
            with other.use("student"):
                loss = scale * velocity(backbone, other.transformer).square().mean()
            (loss / 2).backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, 0.01)
        assert norm > 0.01
        torch.testing.assert_close(learner.grad_norm, norm)
        expected.step()
        expected.zero_grad()
        for ours, theirs in zip(adapters.parameters("student"), weights, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=f"step {step}")


def test_small_steps_of_bf16_weights_are_not_lost(backbone, base):
    adapters = Adapters(base.to(torch.bfloat16))
    adapters.add("student", 4, 8, TARGETS)
    adam = Adam(lr=1e-6, betas=(0.0, 0.99))
    learner = AdapterLearner(adapters, "student", adam)
    ema = AdapterEMA(learner, decay=0.5)
    before = learner.master.detach().clone()
    for _ in range(2):
        learner.backward(velocity(backbone, learner).square().mean())
        learner.step()
        ema.update()
    assert all(weight.dtype == torch.bfloat16 for weight in adapters.parameters("student"))
    assert learner.master.dtype == torch.float32
    moved = (learner.master - before).abs()
    assert 0 < moved.max() < 1e-5
    assert (ema.average - before).abs().max().item() == pytest.approx(
        moved.max().item() * 5 / 8, rel=0.2
    )


def test_a_loaded_learner_goes_on_bit_by_bit(backbone, base):
    def train(adapters, learner, steps):
        for _ in range(steps):
            learner.backward(velocity(backbone, learner).square().mean())
            learner.step()

    fresh = copy.deepcopy(base)
    adapters = with_adapters(base, "student")
    learner = AdapterLearner(adapters, "student", ADAM)
    train(adapters, learner, 2)
    saved = {name: value.clone() for name, value in learner.state_dict().items()}
    train(adapters, learner, 2)

    again = Adapters(fresh)
    again.add("student", 4, 8, TARGETS)
    resumed = AdapterLearner(again, "student", ADAM)
    resumed.load_state_dict(saved)
    train(again, resumed, 2)
    assert torch.equal(resumed.master, learner.master)


def test_the_average_is_written_to_an_adapter_of_its_own(backbone, base):
    adapters = with_adapters(base, "student")
    adapters.add("ema", 4, 8, TARGETS, trainable=False)
    learner = AdapterLearner(adapters, "student", ADAM)
    ema = AdapterEMA(learner, decay=0.5)
    ema.write("ema")
    with adapters.use("ema"):
        averaged = velocity(backbone, base)
    torch.testing.assert_close(averaged, velocity(backbone, learner), **TOLERANCE)
