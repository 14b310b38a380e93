"""Teacher actors give the in-process teacher's numbers and survive being killed."""

import os
import signal

import pytest
import ray
import torch
from distilling import build_base, small_recipe

from flash_ray.backbones.load import load_backbone
from flash_ray.teachers.actor import start_teachers
from flash_ray.teachers.base import TeacherLost
from flash_ray.teachers.in_process import InProcessTeacher
from flash_ray.teachers.pool import TeacherPool
from flash_ray.teachers.scorer import Scorer, fingerprint


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    base = build_base(tmp_path_factory.mktemp("teachers") / "base")
    return small_recipe(base, "teaching.placement=actors", "runtime.max_failures=2")


@pytest.fixture(scope="module")
def backbone(recipe):
    return load_backbone(recipe.base, torch.float32, "cpu", encoders=True)


@pytest.fixture(scope="module")
def conditioned(backbone):
    return backbone.encode(["a red house", "a blue tree before a wall"], None, (64, 64))


@pytest.fixture(scope="module")
def actor(recipe, cluster):
    (started,) = start_teachers(recipe)
    yield started
    ray.kill(started)


@pytest.fixture
def pool(actor, backbone):
    return TeacherPool([actor], fingerprint(backbone.transformer), max_in_flight=2)


@pytest.fixture(scope="module")
def twin(recipe, backbone):
    return InProcessTeacher(Scorer(backbone, *recipe.guidance_of(recipe.teachers[0])))


def question(backbone, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_BNC = torch.randn(2, 16, backbone.latent_channels, generator=generator)
    return x_BNC, torch.rand(2, generator=generator)


def ask(teacher, ticket, conditioned, asked):
    teacher.prefill(ticket, conditioned)
    return teacher.score(ticket, *asked)


def test_an_actor_gives_the_in_process_numbers(pool, twin, backbone, conditioned):
    asked = [question(backbone, seed) for seed in range(4)]
    for ticket in (0, 2):  # two at a time
        answers = [ask(pool, ticket + i, conditioned, asked[ticket + i]) for i in (0, 1)]
        for i, answer in enumerate(answers):
            expected = ask(twin, ticket + i, conditioned, asked[ticket + i]).result()
            torch.testing.assert_close(answer.result(), expected, rtol=1e-6, atol=1e-6)


def test_a_third_ticket_is_refused_where_two_may_be_open(pool, conditioned):
    pool.prefill(0, conditioned)
    pool.prefill(1, conditioned)
    assert not pool.room
    with pytest.raises(ValueError, match="2 tickets are open, 2 may be"):
        pool.prefill(2, conditioned)


def test_a_killed_teacher_is_restarted_and_asked_again(pool, twin, actor, backbone, conditioned):
    asked = question(backbone)
    expected = ask(twin, 0, conditioned, asked).result()
    pool.prefill(0, conditioned)
    pool.prefill(1, conditioned)
    os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    for ticket in (0, 1):
        answer = pool.score(ticket, *asked).result()
        torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-6)
    assert pool.restarts >= 1 and pool.room


def test_an_answer_with_other_weights_is_an_error(actor, backbone, conditioned):
    pool = TeacherPool([actor], "0" * 16)
    with pytest.raises(TeacherLost, match="its base was replaced"):
        ask(pool, 0, conditioned, question(backbone)).result()


def test_a_teacher_that_may_not_be_restarted_is_lost(recipe, cluster, backbone, conditioned):
    frail = recipe.model_copy(
        update={"runtime": recipe.runtime.model_copy(update={"max_failures": 0})}
    )
    (actor,) = start_teachers(frail)
    ray.get(actor.fingerprint.remote())
    pool = TeacherPool([actor], fingerprint(backbone.transformer))
    pool.prefill(0, conditioned)
    ray.kill(actor)
    with pytest.raises(TeacherLost, match="died more often than it may be restarted"):
        pool.score(0, *question(backbone)).result()
