"""Teacher actors give the in-process teacher's numbers and survive being killed."""

import json
import os
import signal
import threading

import pytest
import ray
import torch

from flash_ray.models.loading import load_model
from flash_ray.teachers.actor import start_teacher
from flash_ray.teachers.client import TeacherPool
from flash_ray.teachers.launch import TeacherSet
from flash_ray.teachers.local import InProcessTeachers
from flash_ray.teachers.protocol import TeacherLost, groups
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from tests.helpers.distilling import build_lora, small_recipe
from tests.helpers.small import build_base

BOTH = (0, 1)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The base and a LoRA of it: one group."""
    folder = tmp_path_factory.mktemp("teachers")
    base = build_base(folder / "base")
    lora = build_lora(base, folder / "lora")
    teachers = [
        {"name": "base", "model": "base", "weight": 0.5},
        {"name": "lora", "model": str(lora), "weight": 0.5, "guidance_scale": 1.0},
    ]
    return small_recipe(
        base,
        "teacher_defaults.placement=actors",
        f"teachers={json.dumps(teachers)}",
    )


@pytest.fixture(scope="module")
def group(recipe):
    (group,) = groups(recipe)
    assert group.members == BOTH
    return group


@pytest.fixture(scope="module")
def backbone(recipe):
    return load_model(recipe.base, torch.float32, "cpu", encoders=True)


@pytest.fixture(scope="module")
def conditions(backbone):
    return backbone.encode(["a red house", "a blue tree before a wall"], None, (64, 64))


@pytest.fixture(scope="module")
def actor(recipe, group, cluster):
    started = start_teacher(recipe, group, max_restarts=2)
    yield started
    ray.kill(started)


@pytest.fixture(scope="module")
def weights(recipe, group):
    plain = load_model(recipe.base, torch.float32, "cpu", encoders=False)
    return group_fingerprint(recipe, group, fingerprint(plain.transformer))


@pytest.fixture
def pool(actor, weights):
    return TeacherPool([actor], weights, max_in_flight=2)


@pytest.fixture(scope="module")
def twin(recipe, group, backbone, conditions):
    return InProcessTeachers(group_scorer(recipe, group, backbone))


def noised_latents(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_BNC = torch.randn(2, 16, backbone.latent_channels, generator=generator)
    return x_BNC, torch.rand(2, generator=generator)


def ask(teachers, request_id, conditions, noised, teacher_ids=BOTH):
    teachers.prefill(request_id, conditions, teacher_ids)
    return teachers.score(request_id, *noised)


def assert_equal_answers(got, expected):
    assert got.keys() == expected.keys()
    for index, v_BNC in expected.items():
        torch.testing.assert_close(got[index], v_BNC, rtol=1e-6, atol=1e-6)


def test_an_actor_gives_the_in_process_numbers(pool, twin, backbone, conditions):
    noised = [noised_latents(backbone, seed) for seed in range(4)]
    for request_id in (0, 2):  # two at a time
        answers = [ask(pool, request_id + i, conditions, noised[request_id + i]) for i in (0, 1)]
        for i, answer in enumerate(answers):
            expected = ask(twin, request_id + i, conditions, noised[request_id + i]).result()
            assert_equal_answers(answer.result(), expected)


def test_only_those_asked_answer(pool, twin, backbone, conditions):
    noised = noised_latents(backbone)
    whole = ask(twin, 0, conditions, noised).result()
    assert not torch.allclose(whole[0], whole[1], rtol=0.1, atol=0.1)
    for index in BOTH:
        answer = ask(pool, index, conditions, noised, [index]).result()
        assert_equal_answers(answer, {index: whole[index]})


def test_a_third_request_is_an_error_where_two_may_be_open(pool, conditions):
    pool.prefill(0, conditions, BOTH)
    pool.prefill(1, conditions, BOTH)
    assert not pool.has_capacity
    with pytest.raises(ValueError, match="2 requests are open, 2 may be"):
        pool.prefill(2, conditions, BOTH)


def test_a_killed_teacher_is_restarted_and_asked_again(pool, twin, actor, backbone, conditions):
    noised = noised_latents(backbone)
    expected = ask(twin, 0, conditions, noised).result()
    pool.prefill(0, conditions, BOTH)
    pool.prefill(1, conditions, BOTH)
    os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    for request_id in (0, 1):
        answer = pool.score(request_id, *noised).result()
        assert_equal_answers(answer, expected)
    assert pool.restarts >= 1 and pool.has_capacity


def test_runs_that_share_a_teacher_keep_their_requests_apart(
    recipe, actor, weights, twin, backbone, conditions
):
    """Workers of the same rank and at the same request_id, as in a study."""
    shared = TeacherSet(recipe, [[actor]], autoscaler=None)
    runs = [shared.pool(0, weights, name, rank=0) for name in ("one", "two")]
    others = backbone.encode(["a green circle", "snow"], None, (64, 64))
    noised = noised_latents(backbone)
    pairs = (conditions, others)
    expected = [ask(twin, 0, pair, noised).result() for pair in pairs]
    for run, pair in zip(runs, pairs, strict=True):
        run.prefill(0, pair, BOTH)
    for run, velocities in zip(runs, expected, strict=True):
        assert_equal_answers(run.score(0, *noised).result(), velocities)
        assert run.restarts == 0


def test_a_teacher_computes_in_the_one_thread_that_loaded_it(actor):
    def where(self):
        return threading.current_thread() is threading.main_thread(), torch.get_num_threads()

    calls = [actor.__ray_call__.remote(where) for _ in range(4)]
    assert ray.get(calls) == [(True, 1)] * 4


def test_an_answer_with_other_weights_is_an_error(actor, backbone, conditions):
    pool = TeacherPool([actor], "0" * 16)
    with pytest.raises(TeacherLost, match="its model was replaced"):
        ask(pool, 0, conditions, noised_latents(backbone)).result()


def test_a_teacher_that_may_not_be_restarted_is_lost(
    recipe, group, cluster, weights, backbone, conditions
):
    actor = start_teacher(recipe, group, max_restarts=0)
    ray.get(actor.fingerprint.remote())
    pool = TeacherPool([actor], weights)
    pool.prefill(0, conditions, BOTH)
    ray.kill(actor)
    with pytest.raises(TeacherLost, match="died more often than it may be restarted"):
        pool.score(0, *noised_latents(backbone)).result()
