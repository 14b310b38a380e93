"""The recipe: what loads, what it holds, and the digest."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from pydantic import ValidationError

from flash_ray.methods import METHODS
from flash_ray.recipe import Recipe, dump_yaml, load_recipe, parse_recipe, presets
from flash_ray.recipe.schema import OBJECTIVES, sigma_schedule


def test_presets_load_and_survive_a_round_trip(tmp_path):
    assert presets() == [
        "miniature",
        "miniature-lora",
        "qwen-image-2.1-full",
        "qwen-image-2.1-lora",
        "qwen-image-2.1-lora-24gb",
    ]
    for name in presets():
        recipe = load_recipe(name)
        assert recipe.name == name
        file = tmp_path / "copy.yaml"
        file.write_text(dump_yaml(recipe))
        assert load_recipe(file) == recipe
        assert load_recipe(file).digest == recipe.digest
        assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe


def test_recipe_is_frozen():
    recipe = load_recipe("miniature")
    with pytest.raises(ValidationError):
        recipe.student.steps = 8


def test_recipe_imports_neither_torch_nor_ray():
    code = (
        "import sys, flash_ray.recipe as r; r.load_recipe('miniature'); "
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_overrides_are_yaml_on_dotted_paths():
    recipe = load_recipe(
        "miniature",
        [
            "student.steps=2",
            "student.sigmas=[1, 0.5]",
            "teachers.0.guidance_scale=3",
            "training.optimizer.lr=1e-5",
            "runtime.storage={url: s3://bucket/runs/a}",
            "training.max_grad_norm=null",
        ],
    )
    assert recipe.student.rungs == [1.0, 0.5]
    assert recipe.teachers[0].guidance_scale == 3.0
    assert recipe.training.optimizer.lr == 1e-5
    assert recipe.runtime.storage.url == "s3://bucket/runs/a"
    assert recipe.training.max_grad_norm is None


def test_rungs_are_shifted_towards_noise():
    recipe = load_recipe("miniature", ["student.timestep_shift=3"])
    assert recipe.student.rungs == pytest.approx([1, 0.9, 0.75, 0.5])
    unshifted = load_recipe("miniature", ["student.timestep_shift=1"])
    assert unshifted.student.rungs == pytest.approx([1, 0.75, 0.5, 0.25])


def test_a_schedule_is_even_and_then_shifted():
    assert sigma_schedule(3) == [1.0, 2 / 3, 1 / 3]
    assert sigma_schedule(1, 5.0) == [1.0]
    assert sigma_schedule(4, 2.0) == load_recipe("miniature").student.rungs


def test_digest_follows_the_content():
    digest = load_recipe("miniature").digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert load_recipe("miniature", ["student.steps=4"]).digest == digest
    assert load_recipe("miniature", ["student.timestep_shift=2"]).digest == digest
    assert load_recipe("miniature", ["runtime.storage.url=s3://elsewhere"]).digest == digest
    assert load_recipe("miniature", ["evaluation.every=7"]).digest == digest
    assert load_recipe("miniature", ["runtime.gradient_checkpointing=true"]).digest == digest
    assert load_recipe("miniature", ["seed=1"]).digest != digest
    # A key that moves in the file moves nothing in the digest.
    fields = load_recipe("miniature").model_dump(mode="json")
    assert parse_recipe(dict(reversed(fields.items()))).digest == digest


def test_a_range_of_replicas_is_read_back_and_a_number_is_written_as_ever():
    plain = load_recipe("miniature")
    ranged = load_recipe("miniature", ["teacher_defaults.replicas={min: 1, max: 1}"])
    assert plain.model_dump(mode="json")["teacher_defaults"]["replicas"] == 1
    assert parse_recipe(ranged.model_dump(mode="json")) == ranged


def test_digest_is_the_same_in_every_process():
    code = "from flash_ray.recipe import load_recipe as l; print(l('miniature').digest)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in "12"
    }
    assert seen == {load_recipe("miniature").digest}


def test_without_a_benchmark_nothing_else_of_the_evaluation_counts():
    recipe = load_recipe("miniature", ["evaluation={benchmark: null, judge: none, every: 5}"])
    assert recipe.evaluation.benchmark is None
    assert recipe.digest == load_recipe("miniature").digest


def test_objectives_are_those_that_methods_has():
    assert set(OBJECTIVES) == set(METHODS)


def test_a_preset_of_teachers_becomes_its_list():
    recipe = load_recipe("miniature", ["teachers=specialized-only", "teachers.0.model=./lora"])
    assert [(t.name, t.model) for t in recipe.teachers] == [("specialized", "./lora")]
    assert recipe.guidance_of(recipe.teachers[0]) == (2.5, True)
    own = load_recipe(
        "miniature", ["teachers.0.guidance_scale=3", "teachers.0.guidance_rescale=false"]
    )
    assert own.guidance_of(own.teachers[0]) == (3.0, False)


def test_dump_shows_every_field():
    shown = yaml.safe_load(dump_yaml(load_recipe("miniature")))
    assert shown == load_recipe("miniature").model_dump(mode="json")
    assert shown["training"]["optimizer"]["eps"] == 1e-8
