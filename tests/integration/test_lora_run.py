"""A LoRA student's run on Ray: killed and gone on with, published, drawn, served."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage21.pipeline_qwenimage21 import QwenImage21Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
from safetensors.torch import load_file

from flash_ray.evaluation.drawing import Weights, drawn_by_actors
from flash_ray.evaluation.sample import EncodedBenchmark, encode_benchmark, student_sampler
from flash_ray.miniature.benchmark import MiniatureBenchmark
from flash_ray.models.loading import load_model
from flash_ray.models.lora_source import LORA
from flash_ray.recipe.schema import sigma_schedule
from flash_ray.storage.manifest import record
from flash_ray.storage.students import content_digest, publish_student
from flash_ray.trainer.driver import Callbacks, distill
from flash_ray.trainer.metrics import Evaluated
from flash_ray.trainer.worker import student_key
from tests.helpers.distilling import KillOnce, build_lora, small_recipe
from tests.helpers.serving import SETTINGS, client_of, draw, in_process

TIMES = {"seconds": 1, "stages": {}, "teacher_wait_share": 0, "memory_mib": 0, "cpu_seconds": 0}
SIGMAS = sigma_schedule(2)


class Draws:
    """Has the averaged student draw one case, during the run and at its end."""

    def __init__(self, encoded: EncodedBenchmark):
        self.encoded = encoded

    def draw(self, model, transformer):
        return self.encoded.images(model, transformer, student_sampler(SIGMAS))["t2i"][0]

    def score(self, drawn):
        return Evaluated({"t2i": float(drawn.mean())}, Image.fromarray(drawn))


@pytest.fixture(scope="module")
def case():
    return MiniatureBenchmark().cases("t2i", 1)[0]


@pytest.fixture(scope="module")
def encoded(base, case):
    return encode_benchmark(load_model(str(base), torch.float32, "cpu", True), {"t2i": [case]})


@pytest.fixture(scope="module")
def recipe(base, tmp_path_factory):
    """A run of the base and a LoRA as teachers."""
    lora = build_lora(base, tmp_path_factory.mktemp("teacher"))
    teachers = [
        {"name": "base", "model": "base", "weight": 0.5},
        {"name": "narrow", "model": str(lora), "weight": 0.5},
    ]
    return small_recipe(
        base,
        f"teachers={json.dumps(teachers)}",
        "student.weights=lora",
        "student.lora={rank: 4}",
        f"student.sigmas={SIGMAS}",
        "student.steps=2",
        "training.optimizer.lr=1e-2",
        "training.fake_score.optimizer.lr=1e-2",
        "training.ema_decay=0.5",
        "runtime.micro_batch_size=4",
        "runtime.checkpoint_every=2",
        "evaluation.every=3",
        "runtime.max_failures=1",
    )


@pytest.fixture(scope="module")
def whole(recipe, store, cluster, encoded, tmp_path_factory):
    """The result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "student"
    callbacks = Callbacks(Draws(encoded), final=Draws(encoded).draw)
    return distill(recipe, store, "lora-whole", folder, callbacks=callbacks)


def exact(history):
    return [replace(metrics, **TIMES) for metrics in history]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_last_bit(whole, recipe, store, encoded, tmp_path):
    name = "lora-killed"
    kill = KillOnce(Draws(encoded), tmp_path / "killed", store, name)
    callbacks = Callbacks(kill, final=Draws(encoded).draw)
    resumed = distill(recipe, store, name, tmp_path / "student", callbacks=callbacks)
    assert (tmp_path / "killed").exists()
    assert exact(resumed.history) == exact(whole.history)
    ours, theirs = load_file(tmp_path / "student" / LORA), load_file(whole.folder / LORA)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert np.array_equal(resumed.final, whole.final)


def test_plain_diffusers_draws_what_the_run_drew_at_its_end(whole, base, case, encoded):
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(whole.folder / "scheduler")
    pipeline = QwenImage21Pipeline.from_pretrained(base, scheduler=scheduler)
    noise = encoded.batches["t2i"][0].noise_BNC[:1]
    how = {"sigmas": SIGMAS, "output_resolution": 64, "output_type": "np", "latents": noise}
    plain = pipeline(case.prompt, **how).images[0][..., :3] * 255
    pipeline.load_lora_weights(whole.folder)
    theirs = pipeline(case.prompt, **how).images[0][..., :3] * 255
    assert abs(whole.final - theirs).max() <= 1
    assert abs(theirs - plain).max() > 2


@pytest.mark.slow
def test_workers_that_share_out_the_base_train_the_same_student(
    whole, recipe, store, encoded, tmp_path
):
    settings = {"num_workers": 2, "micro_batch_size": 2, "base": "sharded"}
    runtime = recipe.runtime.model_copy(update=settings)
    sharded = recipe.model_copy(update={"runtime": runtime})
    callbacks = Callbacks(Draws(encoded), final=Draws(encoded).draw)
    result = distill(sharded, store, "lora-sharded", tmp_path / "student", callbacks=callbacks)
    for ours, metrics in zip(result.history, whole.history, strict=True):
        assert ours.student_loss == pytest.approx(metrics.student_loss, rel=1e-4)
        assert (ours.scores is None) == (metrics.scores is None)
    assert abs(result.final.astype(int) - whole.final).max() <= 1
    assert (tmp_path / "student" / LORA).is_file()


@pytest.mark.slow
def test_the_clusters_actors_draw_it(whole, recipe, store, case):
    files = record(whole.folder)
    weights = Weights(content_digest(files), f"{student_key('lora-whole')}/", files)
    with drawn_by_actors(recipe, store, {"student": weights, "base": Weights()}) as draw:
        images = [
            draw(name, student_sampler(SIGMAS), [case], lambda count: None)[0].astype(int)
            for name in ("student", "base")
        ]
    assert abs(images[0] - whole.final).max() <= 1
    assert abs(images[1] - whole.final).max() > 2


def test_it_is_served_on_the_one_base(whole, recipe, store, case, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASH_RAY_CACHE", str(tmp_path / "node"))
    publish_student(store, "lora-served", whole.folder, recipe)
    with client_of(in_process(recipe, store, SETTINGS)) as client:
        pictures = [
            draw(client, model="lora-served", prompt=case.prompt, seed=case.seed, size="64x64"),
            draw(
                client, model="teacher", prompt=case.prompt, seed=case.seed, steps=2, size="64x64"
            ),
        ]
    assert [answer.status_code for answer in pictures] == [200, 200]
    assert pictures[0].json()["data"] != pictures[1].json()["data"]
