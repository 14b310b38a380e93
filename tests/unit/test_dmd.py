"""The DMD method where its optimum is known: a Gaussian teacher and a linear student."""

import pytest
import torch

from flash_ray.methods.dmd import DMD, dmd_gradient
from tests.helpers.gaussian import exact_velocity, randn

METHOD = DMD(sigmas=(1.0, 0.75, 0.5, 0.25), shift=1.5)


def test_descent_reaches_the_teachers_mean_and_width():
    """Student x = a*eps + b, in velocity form v = z - x at sigma 1, its exact score as the fake."""
    mu, s = torch.tensor([0.8, -0.3]), torch.tensor([0.5, 1.6])
    method = DMD(sigmas=(1.0,), shift=1.5)
    a, b = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([a, b], lr=0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        noise, xi = (torch.randn(64, 4, 2, generator=generator) for _ in range(2))
        rung, t_B = method.sample_rung(generator), method.sample_t(64, generator)
        x = method.student_x(lambda z, t: z - (a * z + b), noise, rung)
        x_t = method.renoise(x, t_B, xi)
        v_real = exact_velocity(x_t, t_B, mu, s)
        v_fake = exact_velocity(x_t, t_B, b.detach(), a.detach())
        loss, _ = method.student_loss(x, t_B, xi, v_real, v_fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    torch.testing.assert_close(b.detach(), mu, atol=0.02, rtol=0)
    torch.testing.assert_close(a.detach(), s, atol=0.03, rtol=0)


def test_fake_score_loss_is_least_at_the_students_exact_velocity():
    x = 0.4 + 0.6 * randn(4000, 4, 1)
    t_B, eps = METHOD.sample_t(4000, torch.Generator().manual_seed(1)), randn(4000, 4, 1, seed=2)
    offsets = (-0.2, 0.0, 0.2)
    losses = [
        METHOD.fake_score_loss(lambda z, t, o=o: exact_velocity(z, t, 0.4, 0.6) + o, x, t_B, eps)
        for o in offsets
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_fake_score_loss_does_not_reach_the_student():
    x = randn(2, 3, 4).requires_grad_()
    weight = torch.ones((), requires_grad=True)
    t_B = torch.full((2,), 0.5)
    METHOD.fake_score_loss(lambda z, t: weight * z, x, t_B, randn(2, 3, 4, seed=1)).backward()
    assert x.grad is None and weight.grad != 0


@pytest.mark.parametrize("rung", range(4))
def test_gradients_flow_through_the_last_step_only(rung):
    noise, weight = randn(2, 3, 4), torch.tensor(0.3, requires_grad=True)
    x = METHOD.student_x(lambda z, t: weight * z, noise, rung)
    (gradient,) = torch.autograd.grad(x.sum(), weight)
    z = noise
    for sigma, target in zip(METHOD.sigmas[:rung], METHOD.sigmas[1:], strict=False):
        z = z + (target - sigma) * 0.3 * z
    sigma = METHOD.sigmas[rung]
    torch.testing.assert_close(gradient, (-sigma * z).sum())
    torch.testing.assert_close(x.detach(), z - sigma * 0.3 * z)


def test_student_loss_asks_at_the_renoised_sample():
    """Its gradient is the DMD gradient between the clean predictions that the velocities imply."""
    x = randn(3, 4, 2).requires_grad_()
    xi, t_B = randn(3, 4, 2, seed=1), torch.tensor([0.2, 0.5, 0.9])
    x_t = METHOD.renoise(x, t_B, xi)
    assert not x_t.requires_grad
    t = t_B.view(-1, 1, 1)
    v_real, v_fake = randn(3, 4, 2, seed=2), randn(3, 4, 2, seed=3)
    loss, diagnostics = METHOD.student_loss(x, t_B, xi, v_real, v_fake)
    loss.backward()
    expected = dmd_gradient(x, x_t - t * v_real, x_t - t * v_fake)
    torch.testing.assert_close(x.grad, expected / x.numel())
    torch.testing.assert_close(diagnostics["dmd_gradient"], expected.square().mean().sqrt())
    assert not any(value.requires_grad for value in diagnostics.values())


def test_a_student_equal_to_its_teacher_has_no_gradient():
    x, t_B = randn(3, 4, 2).requires_grad_(), torch.full((3,), 0.5)
    v = randn(3, 4, 2, seed=1)
    loss, diagnostics = METHOD.student_loss(x, t_B, randn(3, 4, 2, seed=2), v, v)
    loss.backward()
    assert x.grad.abs().max() == 0 and diagnostics["dmd_gradient"] == 0


def test_times_are_in_range_and_shifted_towards_noise():
    generator = torch.Generator().manual_seed(0)
    plain = DMD(sigmas=(1.0,), t_min=0.1, t_max=0.9).sample_t(20_000, generator)
    assert 0.1 <= plain.min() < 0.11 and 0.89 < plain.max() <= 0.9
    assert abs(plain.mean() - 0.5) < 0.01
    shifted = DMD(sigmas=(1.0,), t_min=0.1, t_max=0.9, shift=3.0).sample_t(20_000, generator)
    assert abs(shifted.median() - 0.75) < 0.01  # 3*0.5 / (1 + 2*0.5)


def test_every_rung_is_drawn_and_the_seed_fixes_them():
    draws = [
        [METHOD.sample_rung(generator) for _ in range(40)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    ]
    assert draws[0] == draws[1] and set(draws[0]) == {0, 1, 2, 3}
