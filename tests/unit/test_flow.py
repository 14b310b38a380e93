"""The conversions of rectified flow."""

import torch

from flash_ray.methods.flow import interpolate, velocity_target, velocity_to_x


def batch():
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(3, 5, 2, generator=generator) for _ in range(2))
    return x, eps, torch.tensor([0.0, 0.3, 1.0])


def test_ends_are_data_and_noise():
    x, eps, t_B = batch()
    z = interpolate(x, eps, t_B)
    assert torch.equal(z[0], x[0])
    assert torch.equal(z[2], eps[2])


def test_the_true_velocity_gives_the_data_back():
    x, eps, t_B = batch()
    z, v = interpolate(x, eps, t_B), velocity_target(x, eps)
    torch.testing.assert_close(velocity_to_x(z, t_B, v), x)


def test_the_velocity_is_the_derivative_of_z():
    x, eps, t_B = (tensor.double() for tensor in batch())
    step = 1e-6
    slope = (interpolate(x, eps, t_B + step) - interpolate(x, eps, t_B - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity_target(x, eps))
