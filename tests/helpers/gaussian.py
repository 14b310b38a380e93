"""Data N(mu, s^2) in every coordinate: its exact flow, for tests against closed forms."""

import torch


def exact_x(z, t_B, mu, s):
    """E[x | z_t] for x ~ N(mu, s^2), eps ~ N(0, 1), z_t = (1-t)*x + t*eps."""
    t = t_B.to(z.dtype).view(-1, *[1] * (z.dim() - 1))
    gain = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
    return mu + gain * (z - (1 - t) * mu)


def exact_velocity(z, t_B, mu, s):
    """E[eps - x | z_t] = (z_t - E[x | z_t]) / t."""
    t = t_B.to(z.dtype).view(-1, *[1] * (z.dim() - 1))
    return (z - exact_x(z, t_B, mu, s)) / t


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
