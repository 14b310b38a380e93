"""Pictures do not depend on the batch that they are drawn in; what was computed is used again."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from flash_ray.models.base import Condition, PromptCache
from flash_ray.models.prompt_cache import join, size_of, split
from flash_ray.serving.engine import Engine, Question, Row, Way
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


def questions(task: str) -> list[Question]:
    return [
        Question(prompt, (picture(number),) if task == "edit" else (), (64, 64))
        for number, prompt in enumerate(PROMPTS)
    ]


def rows(engine: Engine, asked: list[Question]) -> list[Row]:
    conditions = engine.encode(asked).conditions
    return [
        Row(question.digest, conditioned, seed)
        for seed, (question, conditioned) in enumerate(zip(asked, conditions, strict=True))
    ]


def way(engine: Engine, guidance: float) -> Way:
    return Way("base", engine.backbone.transformer, (1.0, 0.7, 0.3), guidance, rescale=True)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_a_picture_does_not_depend_on_its_batch(backbone, task, guidance):
    together = Engine(backbone, 16 * MIB, 16 * MIB)
    batch = together.draw(way(together, guidance), rows(together, questions(task)))
    for number, question in enumerate(questions(task)):
        alone = Engine(backbone, 0, 0)
        row = Row(question.digest, alone.encode([question]).conditions[0], number)
        drawn = alone.draw(way(alone, guidance), [row]).pictures_BHW3[0]
        difference = np.abs(drawn.astype(int) - batch.pictures_BHW3[number].astype(int))
        assert difference.max() <= 1


def test_the_seed_changes_the_picture_and_nothing_else_does(backbone):
    engine = Engine(backbone, 16 * MIB, 16 * MIB)
    own = rows(engine, questions("t2i"))
    again = Row(own[0].digest, own[0].conditioned, own[3].seed)
    first, last = engine.draw(way(engine, 1.0), [own[0], own[3]]).pictures_BHW3
    assert np.abs(first.astype(int) - last.astype(int)).max() > 1
    repeated = engine.draw(way(engine, 1.0), [again]).pictures_BHW3[0]
    assert np.abs(repeated.astype(int) - last.astype(int)).max() <= 1


def test_conditions_and_prefixes_are_computed_once(backbone):
    engine = Engine(backbone, 16 * MIB, 16 * MIB)
    asked = questions("t2i")
    encoded = engine.encode(asked[:3])
    assert (encoded.hits, encoded.misses) == (0, 3)
    assert (engine.encode(asked).hits, engine.encode(asked).misses) == (4, 0)
    own = rows(engine, asked)
    assert engine.draw(way(engine, 2.5), own[:3]).misses == 3 + 3
    assert engine.draw(way(engine, 2.5), own).hits == 4 + 4
    other = Way("other", engine.backbone.transformer, (1.0,), 1.0, True)
    assert engine.draw(other, own[:1]).hits == 0


def test_joined_prefixes_leave_each_row_as_it_is_alone(backbone):
    conditions = [
        backbone.encode([prompt], None, (64, 64)).positive for prompt in (PROMPTS[0], PROMPTS[2])
    ]
    z_BNC = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    t_B = torch.tensor([0.8, 0.4])
    prefixes, alone = [], []
    with torch.no_grad():
        for row, condition in enumerate(conditions):
            prefix = PromptCache()
            part = slice(row, row + 1)
            backbone.velocity(backbone.transformer, z_BNC[part], t_B[part], condition, prefix)
            prefixes.append(prefix)
            alone.append(backbone.velocity(backbone.transformer, z_BNC[part], t_B[part], condition))
        both = Condition.cat(conditions)
        joined = join(backbone.transformer, prefixes)
        v_BNC = backbone.velocity(backbone.transformer, z_BNC, t_B, both, joined)
        padded = backbone.velocity(backbone.transformer, z_BNC, t_B, both)
    torch.testing.assert_close(v_BNC, torch.cat(alone), atol=1e-4, rtol=1e-4)
    # A plain padded batch does not: that is why prefixes are joined.
    assert (padded - torch.cat(alone)).abs().max() > 1e-2
    # Their rows are as short again as they were.
    parts = split(joined, both)
    assert [size_of(part) for part in parts] == [size_of(prefix) for prefix in prefixes]


def test_png_keeps_every_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(BytesIO(png(pixels)))) == pixels).all()
