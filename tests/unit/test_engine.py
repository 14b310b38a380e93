"""Pictures do not depend on the batch that they are drawn in; what was computed is used again."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from flash_ray.models.base import Condition, PromptCache
from flash_ray.models.prompt_cache import join, size_of, split
from flash_ray.models.sampling import SamplerConfig
from flash_ray.serving.engine import (
    EncodedPrompt,
    Engine,
    LoadedModel,
    Prompt,
    Sampling,
    Watcher,
    between,
)
from flash_ray.serving.images import png

PROMPTS = [
    "A red circle",
    "A blue house on a dark field",
    'A green tree on a bright field with the word "SUN"',
    "A red circle",
]
MIB = 2**20


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return png(pixels)


def prompts(task: str) -> list[Prompt]:
    return [
        Prompt(text, (picture(number),) if task == "edit" else (), (64, 64))
        for number, text in enumerate(PROMPTS)
    ]


def draw(
    engine: Engine,
    encoded: list[EncodedPrompt],
    seeds: list[int],
    guidance_scale: float = 1.0,
) -> Sampling:
    model = LoadedModel("base", engine.base.transformer)
    sampler = SamplerConfig((1.0, 0.7, 0.3), guidance_scale, guidance_rescale=True)
    return engine.sample(model, sampler, encoded, seeds)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_a_picture_does_not_depend_on_its_batch(backbone, task, guidance_scale):
    together = Engine(backbone, 16 * MIB, 16 * MIB)
    encoded = together.encode(prompts(task)).prompts
    batch = draw(together, encoded, [0, 1, 2, 3], guidance_scale)
    for number, prompt in enumerate(prompts(task)):
        alone = Engine(backbone, 0, 0)
        encoded = alone.encode([prompt]).prompts
        drawn = draw(alone, encoded, [number], guidance_scale).pictures_BHWC[0]
        difference = np.abs(drawn.astype(int) - batch.pictures_BHWC[number].astype(int))
        assert difference.max() <= 1


def test_the_seed_changes_the_picture_and_nothing_else_does(backbone):
    engine = Engine(backbone, 16 * MIB, 16 * MIB)
    encoded = engine.encode(prompts("t2i")).prompts
    first, last = draw(engine, [encoded[0], encoded[3]], [0, 3]).pictures_BHWC
    assert np.abs(first.astype(int) - last.astype(int)).max() > 1
    repeated = draw(engine, [encoded[0]], [3]).pictures_BHWC[0]
    assert np.abs(repeated.astype(int) - last.astype(int)).max() <= 1


def test_conditions_and_prompt_caches_are_computed_once(backbone):
    engine = Engine(backbone, 16 * MIB, 16 * MIB)
    several = prompts("t2i")
    encoding = engine.encode(several[:3])
    assert (encoding.hits, encoding.misses) == (0, 3)
    assert (engine.encode(several).hits, engine.encode(several).misses) == (4, 0)
    encoded = engine.encode(several).prompts
    assert draw(engine, encoded[:3], [0, 1, 2], 2.5).misses == 3 + 3
    assert draw(engine, encoded, [0, 1, 2, 3], 2.5).hits == 4 + 4
    other = LoadedModel("other", engine.base.transformer)
    assert engine.sample(other, SamplerConfig((1.0,)), encoded[:1], [0]).hits == 0


def test_partial_pictures_are_evenly_spaced_and_never_the_last():
    assert between(40, 3) == {10, 20, 30}
    assert between(4, 3) == {1, 2, 3}
    assert between(2, 3) == {1} and between(1, 3) == between(4, 0) == frozenset()


def test_who_watches_sees_what_the_steps_say_and_changes_nothing(backbone):
    engine, sampler = Engine(backbone, MIB, MIB), SamplerConfig((1.0, 0.7, 0.3))
    encoded = engine.encode(prompts("t2i")[:2]).prompts
    model = LoadedModel("base", backbone.transformer)
    seen = []
    watchers = [None, Watcher(frozenset({1, 2}), seen.append)]
    watched = engine.sample(model, sampler, encoded, [0, 1], watchers=watchers)
    alone = engine.sample(model, sampler, encoded, [0, 1])
    difference = watched.pictures_BHWC.astype(int) - alone.pictures_BHWC
    assert np.abs(difference).max() <= 1
    assert [picture.shape for picture in seen] == [(64, 64, 3)] * 2
    # After the first step: one step from the same noise says the same.
    first = engine.sample(model, SamplerConfig((1.0,)), encoded[1:], [1]).pictures_BHWC[0]
    assert np.abs(first.astype(int) - seen[0]).max() <= 1


def test_alpha_is_kept_on_request(backbone):
    engine = Engine(backbone, MIB, MIB)
    encoded = engine.encode(prompts("t2i")[:1]).prompts
    model = LoadedModel("base", backbone.transformer)
    clear = engine.sample(model, SamplerConfig((1.0,)), encoded, [0], alpha=True).pictures_BHWC
    plain = engine.sample(model, SamplerConfig((1.0,)), encoded, [0]).pictures_BHWC
    assert clear.shape == (1, 64, 64, 4)
    assert np.abs(clear[..., :3].astype(int) - plain).max() <= 1


def test_joined_prompt_caches_leave_each_row_as_it_is_alone(backbone):
    conditions = [
        backbone.encode([prompt], None, (64, 64)).positive for prompt in (PROMPTS[0], PROMPTS[2])
    ]
    z_BNC = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    t_B = torch.tensor([0.8, 0.4])
    caches, alone = [], []
    with torch.no_grad():
        for row, condition in enumerate(conditions):
            cache = PromptCache()
            part = slice(row, row + 1)
            backbone.velocity(backbone.transformer, z_BNC[part], t_B[part], condition, cache)
            caches.append(cache)
            alone.append(backbone.velocity(backbone.transformer, z_BNC[part], t_B[part], condition))
        both = Condition.cat(conditions)
        joined = join(backbone.transformer, caches)
        v_BNC = backbone.velocity(backbone.transformer, z_BNC, t_B, both, joined)
        padded = backbone.velocity(backbone.transformer, z_BNC, t_B, both)
    torch.testing.assert_close(v_BNC, torch.cat(alone), atol=1e-4, rtol=1e-4)
    # A plain padded batch does not: that is why caches are joined.
    assert (padded - torch.cat(alone)).abs().max() > 1e-2
    # Their rows are as short again as they were.
    parts = split(joined, both)
    assert [size_of(part) for part in parts] == [size_of(cache) for cache in caches]


def test_png_keeps_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(BytesIO(png(pixels)))) == pixels).all()
