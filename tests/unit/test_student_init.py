"""A student starts from the base, a published student, or any transformer of the base's shape."""

import pytest
import torch
from diffusers import QwenImage21Transformer2DModel

from flash_ray.errors import UserError
from flash_ray.models.loading import load_model
from flash_ray.recipe import load_recipe
from flash_ray.storage.students import publish_student
from flash_ray.trainer.student_init import initial_student, validate_init
from tests.helpers.small import build_base
from tests.helpers.storage import MemoryStore


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved pipeline."""
    return build_base(tmp_path_factory.mktemp("base") / "pipeline")


@pytest.fixture
def model(base):
    return load_model(str(base), torch.float32, "cpu", encoders=False)


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_RAY_CACHE", str(tmp_path / "node"))
    return MemoryStore("bucket", "", None)


def recipe_of(base, init="base"):
    return load_recipe("miniature", [f"base={base}", f"student.init={init}"])


def scaled(model, folder):
    """Saves the base's transformer with another last layer; returns that layer."""
    other = model.copy_transformer()
    with torch.no_grad():
        other.proj_out.weight.mul_(2.0)
    other.save_pretrained(folder)
    return other.proj_out.weight


def last_layer(model, recipe, store):
    return initial_student(model, recipe, store).proj_out.weight


def test_it_starts_from_the_base(model, base, store):
    assert initial_student(model, recipe_of(base), store) is None


def test_it_starts_from_a_folder_of_a_transformer_or_a_pipeline(model, base, store, tmp_path):
    expected = scaled(model, tmp_path / "other")
    assert torch.equal(last_layer(model, recipe_of(base, tmp_path / "other"), store), expected)
    tuned = build_base(tmp_path / "tuned")
    scaled(model, tuned / "transformer")
    assert torch.equal(last_layer(model, recipe_of(base, tuned), store), expected)


def test_it_starts_from_a_published_student(model, base, store, tmp_path):
    expected = scaled(model, tmp_path / "student")
    publish_student(store, "first", tmp_path / "student", recipe_of(base))
    for _ in range(2):  # the second takes what the first has downloaded
        assert torch.equal(last_layer(model, recipe_of(base, "students/first"), store), expected)


def test_another_starting_point_is_another_run(base):
    assert recipe_of(base).digest != recipe_of(base, "students/first").digest


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("students/none", "name: no student 'none'"),
        (
            "no-such-thing",
            "student.init: there is no 'no-such-thing'; allowed: base, students/NAME",
        ),
        ("/no/such/folder", "student.init: there is no '/no/such/folder'; allowed: base"),
        ("EMPTY", "holds no config.json; allowed: base, students/NAME"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_loaded(base, store, tmp_path, init, says):
    found = tmp_path if init == "EMPTY" else init
    with pytest.raises(UserError, match=says) as caught:
        validate_init(recipe_of(base, found), store)
    assert "\n" not in str(caught.value)


def test_a_transformer_of_another_shape_is_refused_by_its_first_weight(
    model, base, store, tmp_path
):
    config = {**model.transformer.config, "num_layers": 1}
    QwenImage21Transformer2DModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not of the base's shape \(.*: missing, not \["):
        initial_student(model, recipe_of(base, tmp_path), store)


def test_weights_that_are_pickles_are_not_loaded(model, base, store, tmp_path):
    scaled(model, tmp_path)
    torch.save(model.transformer.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="transformer: none can be loaded"):
        initial_student(model, recipe_of(base, tmp_path), store)
