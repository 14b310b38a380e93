"""Guidance: the formula, its ends, and the norms it keeps."""

import pytest
import torch

from flash_ray.methods.dmd import dmd_gradient
from flash_ray.methods.flow import interpolate, velocity_to_x
from flash_ray.methods.guidance import combine_scores, guided_velocity, score_gap
from flash_ray.recipe import load_recipe
from flash_ray.trainer.lookahead import teacher_weights
from tests.helpers.gaussian import randn


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


def test_teachers_are_averaged_by_each_samples_weight():
    first, second = pair()
    weights_BM = torch.tensor([[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]])
    combined = combine_scores(weights_BM, {0: first, 2: second})
    torch.testing.assert_close(combined[0], 0.25 * first[0] + 0.75 * second[0])
    assert torch.equal(combined[1], first[1])


def test_a_teacher_of_weight_1_is_taken_bit_by_bit():
    first, _ = pair()
    assert torch.equal(combine_scores(torch.ones(2, 1), {0: first}), first)


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (0.0, 0.0)])
def test_weights_that_are_no_mixture_are_refused(weights):
    with pytest.raises(ValueError, match="sum to 1"):
        combine_scores(torch.tensor([weights, weights]), dict(enumerate(pair())))


def test_a_weight_whose_teacher_did_not_answer_is_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        combine_scores(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), {0: pair()[0]})


def test_weights_follow_rung_progress_and_category():
    by_rung = load_recipe("miniature", ["teachers=step-wise-by-rung"])
    categories = ("text", "landscape")
    early = teacher_weights(by_rung, 0, 0.9, "t2i", categories)
    late = teacher_weights(by_rung, 2, 0.0, "t2i", categories)
    assert early.tolist() == [[1, 0], [1, 0]]
    assert late.tolist() == [[0.5, 0.5], [1, 0]]
    by_progress = load_recipe("miniature", ["teachers=step-wise-by-progress"])
    halves = [teacher_weights(by_progress, 0, p, "edit", ("style",)) for p in (0.49, 0.5)]
    assert [half.tolist() for half in halves] == [[[1, 0]], [[0.5, 0.5]]]


def test_the_gap_of_scores_is_that_of_the_scores_themselves():
    x, xi = randn(2, 5, 8, seed=2), randn(2, 5, 8, seed=3)
    v, v_base, v_fake = randn(2, 5, 8), randn(2, 5, 8, seed=1), randn(2, 5, 8, seed=4)
    t_B = torch.tensor([0.3, 0.8])
    z, t = interpolate(x, xi, t_B), t_B.view(-1, 1, 1)
    score = {name: -(z + (1 - t) * value) / t for name, value in (("v", v), ("base", v_base))}
    gap = score["v"] - score["base"]
    norm_B, cosine_B = score_gap(v, v_base, v_fake, v_base, t_B)
    torch.testing.assert_close(norm_B, gap.square().mean((1, 2)).sqrt())
    x_hats = [velocity_to_x(z, t_B, value) for value in (v_base, v_fake)]
    # The student descends the DMD gradient: its direction is the gradient's opposite.
    direction = -dmd_gradient(x, *x_hats)
    expected = torch.cosine_similarity(gap.flatten(1), direction.flatten(1), dim=1)
    torch.testing.assert_close(cosine_B, expected)


def test_the_base_itself_has_no_gap():
    v, v_fake = pair()
    norm_B, cosine_B = score_gap(v, v, v_fake, v, torch.tensor([0.5, 0.9]))
    assert norm_B.abs().max() == 0 and cosine_B.abs().max() == 0
