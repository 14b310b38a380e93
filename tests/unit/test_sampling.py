"""The samplers against diffusers' own pipeline."""

import inspect

import numpy as np
import pytest
import torch
from diffusers import QwenImage21Pipeline
from PIL import Image

from flash_ray.methods.flow import euler, shift_time
from flash_ray.models.sampling import SamplerConfig, sample
from flash_ray.recipe import load_recipe
from flash_ray.recipe.schema import sigma_schedule

PROMPTS = ["A red house", 'A blue tree on a dark field with the word "CAT"']
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def noise(batch):
    return torch.randn(batch, 16, 64, generator=torch.Generator().manual_seed(0))


def pipeline_images(backbone, sigmas, **arguments):
    backbone.pipeline.set_progress_bar_config(disable=True)
    images = backbone.pipeline(
        sigmas=sigmas, output_resolution=64, output_type="np", **arguments
    ).images
    return images[..., :3] * 255


def test_schedule():
    assert sigma_schedule(4) == [1.0, 0.75, 0.5, 0.25]
    assert sigma_schedule(4, shift=3.0) == pytest.approx([1.0, 0.9, 0.75, 0.5])
    assert sigma_schedule(1, shift=5.0) == [1.0]


def test_shift_is_inverted_by_its_reciprocal():
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(shift_time(shift_time(t, 3.0), 1 / 3.0), t)


def test_euler_is_exact_for_a_constant_velocity():
    x, eps = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(euler(lambda z, t: eps - x, eps, [1.0, 0.7, 0.2, 0.0]), x)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_t2i_sample_equals_the_pipeline(backbone, guidance):
    sigmas = sigma_schedule(4, shift=2.0)
    conditioned = backbone.encode(PROMPTS, None, (64, 64))
    sampler = SamplerConfig(tuple(sigmas), guidance, guidance_rescale=False)
    x = sample(backbone, backbone.transformer, conditioned, noise(2), sampler)
    ours = backbone.to_images(x, conditioned.layout).astype(float)
    theirs = pipeline_images(
        backbone,
        sigmas,
        prompt=PROMPTS,
        negative_prompt=["", ""] if guidance > 1 else None,
        true_cfg_scale=guidance,
        latents=noise(2),
    )
    assert abs(ours - theirs).max() <= 1
    assert abs(ours[0] - ours[1]).mean() > 2, "the two prompts must give different pictures"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_edit_sample_equals_the_pipeline(backbone, guidance):
    sigmas = sigma_schedule(3)
    conditioned = backbone.encode(["Make it red"], [[PICTURE]], (64, 64))
    sampler = SamplerConfig(tuple(sigmas), guidance, guidance_rescale=False)
    x = sample(backbone, backbone.transformer, conditioned, noise(1), sampler)
    theirs = pipeline_images(
        backbone,
        sigmas,
        prompt="Make it red",
        image=PICTURE,
        negative_prompt="" if guidance > 1 else None,
        true_cfg_scale=guidance,
        latents=noise(1),
    )
    assert abs(backbone.to_images(x, conditioned.layout).astype(float) - theirs).max() <= 1


def test_guidance_one_asks_once_a_step_and_progress_is_told(backbone, monkeypatch):
    conditioned = backbone.encode(PROMPTS, None, (64, 64))
    calls, velocity = [], type(backbone).velocity
    monkeypatch.setattr(
        type(backbone), "velocity", lambda self, *a: (calls.append(a), velocity(self, *a))[1]
    )
    for guidance, asked in ((1.0, 2), (2.0, 4)):
        calls.clear()
        told = []
        sample(
            backbone,
            backbone.transformer,
            conditioned,
            noise(2),
            SamplerConfig(tuple(sigma_schedule(2)), guidance),
            progress=lambda done, steps, told=told: told.append((done, steps)),
        )
        assert len(calls) == asked
        assert told == [(1, 2), (2, 2)]


def test_the_large_preset_guides_its_teacher_as_the_pipeline_does_unless_it_is_told():
    told = inspect.signature(QwenImage21Pipeline.__call__).parameters["true_cfg_scale"]
    assert load_recipe("qwen-image-2.1-full").teacher_defaults.guidance_scale == told.default == 1.0
