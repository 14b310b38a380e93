"""Guidance: the formula, its ends, and the norms it keeps."""

import pytest
import torch
from gaussian import randn

from flash_ray.distill.guidance import combine_scores, guided_velocity


def pair():
    return randn(2, 5, 8), randn(2, 5, 8, seed=1)


@pytest.mark.parametrize("rescale", [False, True])
def test_scale_one_is_the_conditional_velocity(rescale):
    v_cond, v_uncond = pair()
    torch.testing.assert_close(guided_velocity(v_cond, v_uncond, 1.0, rescale), v_cond)


def test_plain_guidance_extrapolates():
    v_cond, v_uncond = pair()
    expected = 3.0 * v_cond - 2.0 * v_uncond
    torch.testing.assert_close(guided_velocity(v_cond, v_uncond, 3.0, False), expected)


def test_rescaled_guidance_keeps_direction_and_the_conditional_norm_per_token():
    v_cond, v_uncond = pair()
    plain = guided_velocity(v_cond, v_uncond, 4.0, False)
    rescaled = guided_velocity(v_cond, v_uncond, 4.0, True)
    torch.testing.assert_close(rescaled.norm(dim=-1), v_cond.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(plain, rescaled, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert not torch.allclose(plain.norm(dim=-1), v_cond.norm(dim=-1), rtol=0.1)


def test_bf16_stays_bf16_and_zero_velocities_stay_zero():
    zeros = torch.zeros(1, 2, 4, dtype=torch.bfloat16)
    guided = guided_velocity(zeros, zeros, 4.0, True)
    assert guided.dtype == torch.bfloat16 and guided.abs().max() == 0


def test_teachers_are_averaged_by_weight():
    first, second = pair()
    torch.testing.assert_close(
        combine_scores([(0.25, first), (0.75, second)]), 0.25 * first + 0.75 * second
    )


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (0.0, 0.0)])
def test_weights_that_are_no_mixture_are_refused(weights):
    with pytest.raises(ValueError, match="sum to 1"):
        combine_scores(list(zip(weights, pair(), strict=True)))


def test_no_teacher_is_refused():
    with pytest.raises(ValueError):
        combine_scores([])
