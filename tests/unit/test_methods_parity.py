"""The DMD losses against NVIDIA Model-Optimizer's `modelopt.torch.fastgen`, on the same tensors.

Both minimize 0.5 * MSE to x - gradient; theirs adds 1e-6 to the normalizer, ours is clamped there,
which the tolerance covers.
"""

import pytest
import torch
from modelopt.torch.fastgen import DMDConfig, DMDPipeline
from modelopt.torch.fastgen.config import SampleTimestepConfig
from modelopt.torch.fastgen.losses import dsm_loss, vsd_loss
from torch import nn

from flash_ray.methods import DMD
from flash_ray.methods.dmd import dmd_gradient, dmd_loss, flow_matching_loss
from tests.helpers.gaussian import randn

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
SHAPE = (4, 16, 8)
SEED = 7  # of the noise that both draw inside a loss


class Network(nn.Module):
    """A velocity that depends on the latents and on the time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(randn(8, 8, seed=seed) / 3)
        self.shift = nn.Parameter(randn(8, seed=seed + 100))

    def forward(self, hidden_states, timestep, **_):
        return torch.tanh(hidden_states @ self.mix) + timestep.view(-1, 1, 1) * self.shift


class Pipeline(DMDPipeline):
    """Theirs, with given times."""

    t_B = torch.tensor([0.15, 0.4, 0.7, 0.95])

    def sample_timesteps(self, n, *, device=None, dtype=torch.float32):
        return self.t_B


@pytest.fixture
def networks():
    """Student, teacher and fake score."""
    return [Network(seed) for seed in (1, 2, 3)]


@pytest.fixture
def theirs(networks):
    config = DMDConfig(
        pred_type="flow",
        fake_score_pred_type="flow",
        guidance_scale=None,
        student_sample_steps=1,
        sample_t_cfg=SampleTimestepConfig(max_t=1.0),
        gan_loss_weight_gen=0.0,
        ema=None,
    )
    return Pipeline(*networks, config)


def drawn_inside():
    torch.manual_seed(SEED)
    return torch.randn(SHAPE)


def gradients(loss, network):
    return torch.autograd.grad(loss, list(network.parameters()))


def test_the_student_loss_and_its_gradient_agree(networks, theirs):
    student, teacher, fake_score = networks
    noise, xi, method = randn(*SHAPE), drawn_inside(), DMD(sigmas=(1.0,))
    x = method.student_x(student, noise, rung=0)
    x_t = method.renoise(x, theirs.t_B, xi)
    with torch.no_grad():
        v_real, v_fake = teacher(x_t, theirs.t_B), fake_score(x_t, theirs.t_B)
    loss, _ = method.student_loss(x, theirs.t_B, xi, v_real, v_fake)

    torch.manual_seed(SEED)
    expected = theirs.compute_student_loss(torch.zeros(SHAPE), noise)["total"]
    assert expected > 0.01
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    assert loss.dtype == expected.dtype == torch.float32
    for ours, other in zip(gradients(loss, student), gradients(expected, student), strict=True):
        assert other.abs().max() > 1e-4
        torch.testing.assert_close(ours, other, **TOLERANCE)


def test_the_gradient_at_the_samples_agrees():
    real, fake = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    ours, theirs = (randn(*SHAPE).requires_grad_() for _ in range(2))
    dmd_loss(ours, dmd_gradient(ours, real, fake)).backward()
    vsd_loss(theirs, real, fake).backward()
    # Relative to the gradient of a mean, which is small for each element.
    scale = theirs.grad.abs().mean()
    torch.testing.assert_close(ours.grad / scale, theirs.grad / scale, **TOLERANCE)


def test_the_fake_score_loss_and_its_gradient_agree(networks, theirs):
    student, _, fake_score = networks
    noise, eps, method = randn(*SHAPE), drawn_inside(), DMD(sigmas=(1.0,))
    x = method.student_x(student, noise, rung=0)
    loss = method.fake_score_loss(fake_score, x, theirs.t_B, eps)

    torch.manual_seed(SEED)
    expected = theirs.compute_fake_score_loss(torch.zeros(SHAPE), noise)["total"]
    torch.testing.assert_close(loss, expected, **TOLERANCE)
    pairs = zip(gradients(loss, fake_score), gradients(expected, fake_score), strict=True)
    for ours, other in pairs:
        torch.testing.assert_close(ours, other, **TOLERANCE)


def test_the_flow_matching_loss_is_their_score_matching_of_the_flow():
    v_pred, x, eps = (randn(*SHAPE, seed=seed) for seed in range(3))
    expected = dsm_loss("flow", v_pred, x0=x, eps=eps)
    torch.testing.assert_close(flow_matching_loss(v_pred, x, eps), expected, **TOLERANCE)
