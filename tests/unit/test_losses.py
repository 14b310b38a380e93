"""The losses against closed forms and finite differences."""

import math

import torch

from flash_ray.methods.dmd import dmd_gradient, dmd_loss, flow_matching_loss
from flash_ray.methods.flow import interpolate
from tests.helpers.gaussian import exact_velocity, exact_x, randn


def test_gradient_of_the_loss_is_the_dmd_gradient_over_numel():
    x = randn(4, 6, 3).requires_grad_()
    real, fake = randn(4, 6, 3, seed=1), randn(4, 6, 3, seed=2)
    gradient = dmd_gradient(x, real, fake)
    dmd_loss(x, gradient).backward()
    torch.testing.assert_close(x.grad, gradient / x.numel())


def test_the_loss_agrees_with_finite_differences():
    x, gradient = randn(2, 3, 2, dtype=torch.float64), randn(2, 3, 2, seed=1)
    target = x.float() - gradient
    direction, step = randn(2, 3, 2, seed=2), 1e-2

    def surrogate(moved):  # the loss with its stop-gradient target held fixed
        return 0.5 * (moved - target).square().mean()

    moved = x.float().requires_grad_()
    dmd_loss(moved, gradient).backward()
    ahead, behind = surrogate(moved + step * direction), surrogate(moved - step * direction)
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close((moved.grad * direction).sum(), slope, atol=1e-4, rtol=1e-3)


def test_the_normalizer_is_per_sample():
    x, real, fake = randn(2, 4, 3), randn(2, 4, 3, seed=1), randn(2, 4, 3, seed=2)
    alone = dmd_gradient(x[:1], real[:1], fake[:1])
    torch.testing.assert_close(dmd_gradient(x, real, fake)[:1], alone)
    expected = (fake[0] - real[0]) / (x[0] - real[0]).abs().mean()
    torch.testing.assert_close(alone[0], expected)


def test_bf16_inputs_are_reduced_in_fp32():
    # A bf16 mean of 4096 values of 1.0 and one of 0.5 would lose the small one.
    x = torch.ones(1, 4097, 1, dtype=torch.bfloat16)
    x[0, 0] = 0.5
    gradient = dmd_gradient(x, torch.zeros_like(x), torch.ones_like(x))
    assert gradient.dtype == torch.float32
    expected = 4097 / 4096.5
    torch.testing.assert_close(gradient, torch.full_like(gradient, expected), rtol=1e-6, atol=0)
    assert dmd_loss(x, gradient).dtype == torch.float32
    assert flow_matching_loss(x, x, x).dtype == torch.float32


def test_equal_samples_and_predictions_stay_finite():
    x = randn(2, 4, 3)
    assert dmd_gradient(x, x, x).abs().max() == 0


def test_the_dmd_direction_is_the_gradient_of_the_kl():
    """x_fake_hat - x_real_hat, weighted (1-t)^2/t^2, against the KL of two Gaussians at time t.

    Student x = a*eps + b, teacher N(mu, s^2). d KL/d(a, b) by finite differences.
    """
    a, b, mu, s, t = 0.7, 0.4, -0.5, 1.2, 0.6

    def kl(a, b):
        m, v = (1 - t) * b, (1 - t) ** 2 * a**2 + t**2
        n, w = (1 - t) * mu, (1 - t) ** 2 * s**2 + t**2
        return 0.5 * (math.log(w / v) + (v + (m - n) ** 2) / w - 1)

    samples, step = 400_000, 1e-5
    eps, xi = (randn(samples, 1, seed=seed, dtype=torch.float64) for seed in (0, 1))
    t_B = torch.full((samples,), t)
    z = interpolate(a * eps + b, xi, t_B.double())
    direction = exact_x(z, t_B.double(), b, a) - exact_x(z, t_B.double(), mu, s)
    weighted = direction * (1 - t) ** 2 / t**2
    d_a = (kl(a + step, b) - kl(a - step, b)) / (2 * step)
    d_b = (kl(a, b + step) - kl(a, b - step)) / (2 * step)
    assert abs((weighted * eps).mean() - d_a) < 0.01 * abs(d_a)
    assert abs(weighted.mean() - d_b) < 0.01 * abs(d_b)


def test_the_exact_velocity_minimizes_the_flow_matching_loss():
    mu, s, samples = 0.3, 0.8, 200_000
    x = mu + s * randn(samples, 1)
    eps = randn(samples, 1, seed=1)
    t_B = 0.05 + 0.9 * torch.rand(samples, generator=torch.Generator().manual_seed(2))
    z = interpolate(x, eps, t_B)
    best = exact_velocity(z, t_B, mu, s)
    tilt = torch.zeros(2, requires_grad=True)
    loss = flow_matching_loss(best + tilt[0] + tilt[1] * z, x, eps)
    loss.backward()
    assert tilt.grad.abs().max() < 0.02
    for offset in (-0.2, 0.2):
        assert flow_matching_loss(best + offset, x, eps) > loss + 0.03
        assert flow_matching_loss(best + offset * z, x, eps) > loss
