"""Backward simulation is the sampler, stopped at a rung."""

import pytest
import torch

from flash_ray.methods.dmd import DMD, rollout
from flash_ray.methods.flow import euler
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe.schema import sigma_schedule
from tests.helpers.gaussian import exact_velocity, randn

SIGMAS = sigma_schedule(4, shift=2.0)


def velocity(z, t_B):
    return exact_velocity(z, t_B, 0.5, 0.7)


def test_first_rung_is_the_noise():
    noise = randn(2, 3, 4)
    z, sigma = rollout(velocity, noise, SIGMAS, 0)
    assert sigma == 1.0 and torch.equal(z, noise)


@pytest.mark.parametrize("rung", range(4))
def test_the_rest_of_the_way_gives_the_samplers_output(rung):
    noise = randn(2, 3, 4)
    z, sigma = rollout(velocity, noise, SIGMAS, rung)
    assert sigma == SIGMAS[rung]
    finished = euler(velocity, z, [*SIGMAS[rung:], 0.0])
    torch.testing.assert_close(finished, euler(velocity, noise, [*SIGMAS, 0.0]))


def test_student_x_at_the_last_rung_is_the_sample(backbone):
    conditioned = backbone.encode(["A red house", "A green tree on a dark field"], None, (64, 64))
    noise = randn(2, 16, 64)

    def student(z, t_B):
        return backbone.velocity(backbone.transformer, z, t_B, conditioned.positive)

    x = DMD(tuple(SIGMAS)).student_x(student, noise, rung=3)
    expected = sample(
        backbone, backbone.transformer, conditioned, noise, SamplerConfig(tuple(SIGMAS))
    )
    torch.testing.assert_close(x, expected, atol=1e-4, rtol=1e-4)


def test_the_rollout_has_no_gradient():
    weight = torch.ones((), requires_grad=True)
    z, _ = rollout(lambda z, t_B: weight * z, randn(2, 3, 4), SIGMAS, 3)
    assert not z.requires_grad


@pytest.mark.parametrize("rung", [-1, 4])
def test_a_rung_outside_the_schedule_is_refused(rung):
    with pytest.raises(ValueError, match="exit_rung"):
        rollout(velocity, randn(1, 2, 2), SIGMAS, rung)
