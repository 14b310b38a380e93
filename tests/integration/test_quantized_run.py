"""Runs of LoRA students on a quantized base: killed and gone on with, teachers on either base."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from flash_ray.models.lora_source import LORA
from flash_ray.storage.students import publish_student, read_student
from flash_ray.trainer.driver import Callbacks, distill
from flash_ray.trainer.metrics import Evaluated
from tests.helpers.distilling import KillOnce, build_lora, small_recipe

TIMES = {"seconds": 1, "stages": {}, "teacher_wait_share": 0, "memory_mib": 0, "cpu_seconds": 0}


class DrawsNothing:
    """What a worker calls after an iteration."""

    def draw(self, model, transformer):
        return None

    def score(self, drawn):
        return Evaluated({}, None)


def recipe_of(base, lora, *overrides):
    teachers = [
        {"name": "base", "model": "base", "weight": 0.5},
        {"name": "narrow", "model": str(lora), "weight": 0.5},
    ]
    return small_recipe(
        base,
        f"teachers={json.dumps(teachers)}",
        "student={weights: lora, lora: {rank: 4}, steps: 2}",
        "training.optimizer.lr=1e-2",
        "training.fake_score.optimizer.lr=1e-2",
        "runtime.micro_batch_size=2",
        "runtime.checkpoint_every=2",
        "evaluation.every=3",
        "runtime.max_failures=1",
        *overrides,
    )


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    return build_lora(base, tmp_path_factory.mktemp("teacher"))


def exact(history):
    return [replace(metrics, **TIMES) for metrics in history]


@pytest.mark.slow
def test_a_killed_run_on_an_nf4_base_goes_on_to_the_last_bit(base, lora, store, cluster, tmp_path):
    quantized = ["training.base_precision=nf4", "teacher_defaults.quantized=true"]
    recipe = recipe_of(base, lora, *quantized)
    whole = distill(recipe, store, "nf4-whole", tmp_path / "whole")
    kill = KillOnce(DrawsNothing(), tmp_path / "killed", store, "nf4-killed")
    resumed = distill(recipe, store, "nf4-killed", tmp_path / "again", callbacks=Callbacks(kill))
    assert (tmp_path / "killed").exists()
    assert exact(resumed.history) == exact(whole.history)
    ours, theirs = load_file(tmp_path / "again" / LORA), load_file(whole.folder / LORA)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    publish_student(store, "nf4", whole.folder, recipe)
    assert read_student(store, "nf4").base_precision == "nf4"


@pytest.mark.slow
def test_teachers_of_either_place_answer_from_the_base_as_it_was(
    base, lora, store, cluster, tmp_path
):
    def losses(name, *overrides):
        recipe = recipe_of(base, lora, "training.iterations=2", *overrides)
        history = distill(recipe, store, name, tmp_path / name).history
        return torch.tensor([[each.student_loss, each.fake_score_loss] for each in history])

    int8 = "training.base_precision=int8"
    inside = losses("int8-inside", int8)
    actors = losses("int8-actors", int8, "teacher_defaults.placement=actors")
    torch.testing.assert_close(inside, actors, rtol=1e-4, atol=1e-5)
    shared = losses("int8-shared", int8, "teacher_defaults.quantized=true")
    assert not torch.allclose(inside, shared, rtol=1e-4, atol=1e-5)
