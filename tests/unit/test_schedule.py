"""Teachers and published students are sampled as diffusers' own pipeline samples them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoModel, FlowMatchEulerDiscreteScheduler, QwenImage21Pipeline
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.sample import student_sampler, teacher_sampler, untrained_samplers
from flash_ray.models.loading import import_components, load_model, own_sigmas
from flash_ray.models.sampling import sample
from flash_ray.recipe import load_recipe
from tests.helpers.small import build_base

PROMPTS = ["A red house", "A blue tree on a dark field"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.6, "max_shift": 1.4}
SCHEDULERS = {
    "plain": ({}, None),
    "static": ({"shift": 3.0}, None),
    "dynamic": (DYNAMIC, None),
    "linear": ({**DYNAMIC, "time_shift_type": "linear"}, None),
    "terminal": ({**DYNAMIC, "shift_terminal": 0.1}, None),
    "sigmas of its own": (DYNAMIC, [1.0, 0.8, 0.5, 0.3, 0.1]),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """The same small pipeline with each scheduler, by name."""
    saved = {}
    for name, (shifts, sigmas) in SCHEDULERS.items():
        folder = build_base(tmp_path_factory.mktemp("base") / "pipeline")
        FlowMatchEulerDiscreteScheduler(**shifts).save_pretrained(folder / "scheduler")
        import_components(folder)
        pipeline = QwenImage21Pipeline.from_pretrained(folder)
        pipeline.register_to_config(sample_sigmas=sigmas)
        pipeline.save_config(folder)
        saved[name] = folder
    return saved


def recipe_of(base: Path, *overrides: str):
    return load_recipe("miniature", [f"base={base}", *overrides])


def drawn_by_diffusers(pipeline: QwenImage21Pipeline, latents: torch.Tensor, **arguments):
    pipeline.set_progress_bar_config(disable=True)
    given = {"output_resolution": 64, "output_type": "np", "latents": latents}
    return pipeline(**given, **arguments).images[..., :3] * 255


def noise_of(count: int, size: tuple[int, int]) -> torch.Tensor:
    tokens = size[0] * size[1] // 256
    return torch.randn(count, tokens, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_the_teacher_draws_what_its_pipeline_draws(bases, name, size):
    base = bases[name]
    model = load_model(str(base), torch.float32, "cpu", encoders=True)
    conditions = model.encode(PROMPTS, None, size)
    sampler = teacher_sampler(recipe_of(base, "teacher_defaults.guidance_scale=1"))
    x = sample(model, model.transformer, conditions, noise_of(2, size), sampler)
    ours = model.to_images(x, conditions.layout).astype(float)
    theirs = drawn_by_diffusers(
        model.pipeline, noise_of(2, size), prompt=PROMPTS, height=size[0], width=size[1]
    )
    assert abs(ours - theirs).max() <= 1
    assert abs(ours[0] - ours[1]).mean() > 2, "the two prompts must give different pictures"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_published_student_is_drawn_by_diffusers_alone(bases, name, tmp_path):
    base = bases[name]
    model = load_model(str(base), torch.float32, "cpu", encoders=True)
    model.save_student(model.transformer, tmp_path)
    sigmas = recipe_of(base).student.rungs
    conditions = model.encode(["Make it red"], [[PICTURE]], (64, 64))
    noise = noise_of(1, (64, 64))
    x = sample(model, model.transformer, conditions, noise, student_sampler(sigmas))
    pipeline = QwenImage21Pipeline.from_pretrained(
        base,
        transformer=AutoModel.from_pretrained(str(tmp_path)),
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "scheduler"),
    )
    theirs = drawn_by_diffusers(pipeline, noise, prompt="Make it red", image=PICTURE, sigmas=sigmas)
    assert abs(model.to_images(x, conditions.layout).astype(float) - theirs).max() <= 1


def test_the_base_has_the_students_evaluations_in_every_way(bases):
    guided = untrained_samplers(recipe_of(bases["dynamic"]))
    assert [(s.nfe, s.title) for s in guided] == [
        (4, "4 steps"),
        (4, "4 steps at 1, 0.857, 0.667, 0.4"),
        (4, "2 guided steps"),
        (4, "2 guided steps at 1, 0.667"),
    ]
    unguided = untrained_samplers(
        recipe_of(bases["dynamic"], "teacher_defaults.guidance_scale=1", "student.steps=2")
    )
    assert [s.title for s in unguided] == ["2 steps", "2 steps at 1, 0.667"]


def test_a_checkpoints_own_sigmas_are_read_from_its_configuration(bases):
    assert own_sigmas(str(bases["sigmas of its own"])) == [1.0, 0.8, 0.5, 0.3, 0.1]
    assert own_sigmas(str(bases["static"])) == pytest.approx([1 - i / 40 for i in range(40)])


@pytest.mark.parametrize("key", ["stochastic_sampling", "invert_sigmas"])
def test_a_scheduler_that_samples_otherwise_is_refused(bases, key, tmp_path):
    base = build_base(tmp_path / "base")
    FlowMatchEulerDiscreteScheduler(**{key: True}).save_pretrained(base / "scheduler")
    with pytest.raises(UserError, match=f"its scheduler has {key}; allowed: a FlowMatch"):
        own_sigmas(str(base))
