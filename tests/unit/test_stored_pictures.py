"""Pictures in the store come back as they were drawn; one that is not whole is named."""

import numpy as np
import pytest
from PIL import Image

from flash_ray.errors import UserError
from flash_ray.evaluation.benchmark import Case
from flash_ray.evaluation.pictures import StoredPictures, case_digest, picture_home, put_picture
from flash_ray.models.sampling import SamplerConfig
from flash_ray.recipe import load_recipe
from tests.helpers.storage import MemoryStore

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


@pytest.fixture
def store():
    return MemoryStore("bucket", "", None)


def test_a_picture_comes_back_without_loss(store):
    for key, shift in (("a", 0), ("b", 1)):
        put_picture(store, key, PICTURE + shift)
    pictures = StoredPictures(store, ("a", "b"))
    assert [np.array_equal(found, PICTURE + n) for n, found in enumerate(pictures)] == [True] * 2
    assert np.array_equal(pictures[1:][0], PICTURE + 1)


@pytest.mark.parametrize("damage", ["gone", "cut", "no picture", "a bomb"])
def test_a_picture_that_cannot_be_read_is_named_in_one_line(store, monkeypatch, damage):
    put_picture(store, "pictures/a.png", PICTURE)
    if damage == "gone":
        store.delete("pictures/a.png")
    elif damage == "cut":
        store.put_bytes("pictures/a.png", store.get_bytes("pictures/a.png")[:50])
    elif damage == "no picture":
        store.put_bytes("pictures/a.png", b"text")
    else:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(UserError, match="pictures/a.png is gone or damaged; remove it") as caught:
        StoredPictures(store, ("pictures/a.png",))[0]
    assert "\n" not in str(caught.value)


def test_what_decides_a_picture_decides_its_name():
    case = Case("id", "edit", "c", "make it red", (64, 64), 1, [Image.new("RGB", (8, 8))])
    others = [
        Case("id", "edit", "c", "make it blue", (64, 64), 1, case.references),
        Case("id", "edit", "c", "make it red", (64, 96), 1, case.references),
        Case("id", "edit", "c", "make it red", (64, 64), 2, case.references),
        Case("id", "edit", "c", "make it red", (64, 64), 1, [Image.new("RGB", (8, 8), "red")]),
    ]
    assert len({case_digest(each) for each in (case, *others)}) == 5
    renamed = Case("other", "edit", "d", "make it red", (64, 64), 1, case.references)
    assert case_digest(renamed) == case_digest(case)
    samplers = [SamplerConfig((1.0,)), SamplerConfig((1.0,), scheduled=True), SamplerConfig((0.9,))]
    recipe = load_recipe("miniature")
    homes = {
        picture_home(recipe, sampler, weights) for sampler in samplers for weights in ("", "w")
    }
    assert len(homes) == 6
