"""Teachers beyond the minimum come while requests wait, and go; no request is lost by it."""

import os
import signal
import time
from contextlib import contextmanager
from itertools import count

import pytest
import ray
import torch
from ray.util.state import list_actors

from flash_ray.models.loading import load_model
from flash_ray.teachers.autoscaler import ScalingPolicy
from flash_ray.teachers.launch import start_teachers
from flash_ray.teachers.local import InProcessTeachers
from flash_ray.teachers.protocol import groups
from flash_ray.teachers.scorer import fingerprint, group_fingerprint, group_scorer
from tests.helpers.distilling import small_recipe
from tests.helpers.small import build_base

POLICY = ScalingPolicy(scale_up_after_s=1, scale_down_after_s=4)
LIMIT_S = 240  # an error, not a measure: nothing here waits for it


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    base = build_base(tmp_path_factory.mktemp("range") / "base")
    return small_recipe(
        base, "teacher_defaults.placement=actors", "teacher_defaults.replicas={min: 1, max: 2}"
    )


@pytest.fixture(scope="module")
def backbone(recipe):
    return load_model(recipe.base, torch.float32, "cpu", encoders=True)


@pytest.fixture
def teacher_set(recipe, cluster):
    started = start_teachers(recipe, POLICY)
    ray.get(started.actors[0][0].fingerprint.remote())
    yield started
    started.stop()
    wait_until(lambda: free_slots() == 2)


def free_slots():
    return ray.available_resources().get("teacher", 0)


def wait_until(condition, meanwhile=lambda: time.sleep(0.2)):
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until
        meanwhile()


class Occupant:
    """Holds the resources of a teacher."""


@contextmanager
def an_occupied_slot():
    actor = ray.remote(Occupant).options(num_cpus=0, resources={"teacher": 1}).remote()
    ray.get(actor.__ray_ready__.remote())
    try:
        yield
    finally:
        ray.kill(actor)


class Load:
    """Two workers that make slow requests at the same time, and check every answer."""

    def __init__(self, recipe, backbone, teacher_set):
        (group,) = groups(recipe)
        weights = group_fingerprint(recipe, group, fingerprint(backbone.transformer))
        self.autoscaler = teacher_set.autoscaler
        self.pools = [teacher_set.pool(0, weights, "load", rank) for rank in (0, 1)]
        self.conditions = backbone.encode([f"house {n}" for n in range(24)], None, (256, 256))
        generator = torch.Generator().manual_seed(0)
        self.x_BNC = torch.randn(24, 256, backbone.latent_channels, generator=generator)
        self.t_B = torch.rand(24, generator=generator)
        twin = InProcessTeachers(group_scorer(recipe, group, backbone))
        self.request_ids = count()
        self.expected = self.ask(twin, next(self.request_ids)).result()[0]

    def ask(self, teachers, request_id):
        teachers.prefill(request_id, self.conditions, [0])
        return teachers.score(request_id, self.x_BNC, self.t_B)

    def __call__(self):
        request_id = next(self.request_ids)
        for answer in [self.ask(pool, request_id) for pool in self.pools]:
            torch.testing.assert_close(answer.result()[0], self.expected, rtol=1e-6, atol=1e-6)

    def counts(self):
        """Teachers beyond the minimum that are started, and those that are ready."""
        (counts,) = ray.get(self.autoscaler.counts.remote())
        return counts["started"], counts["ready"]

    def extra(self):
        """The one beyond the minimum that both workers know of, or None."""
        known = [list(pool.extra_teachers().values()) for pool in self.pools]
        return known[0][0] if all(known) else None


class Asker:
    """The load, in a process of its own."""

    def __init__(self, recipe, teacher_set):
        torch.set_num_threads(1)
        backbone = load_model(recipe.base, torch.float32, "cpu", encoders=True)
        self.load = Load(recipe, backbone, teacher_set)

    def ask_on(self):
        while True:
            self.load()


@pytest.fixture
def load(recipe, backbone, teacher_set):
    return Load(recipe, backbone, teacher_set)


def test_a_queue_starts_a_teacher_that_goes_when_it_is_idle(load):
    with an_occupied_slot():
        wait_until(lambda: load.counts() == (1, 0), load)
        for _ in range(3):  # no node takes it, and nobody waits for it
            load()
        assert load.counts() == (1, 0)
    wait_until(lambda: load.counts() == (1, 1), load)
    wait_until(load.extra, load)
    assert free_slots() == 0
    for pool in load.pools:  # announced to both, and not asked before one of them is gone
        pool.prefill(-1, load.conditions, [0])
        pool.prefill(-2, load.conditions, [0])
    wait_until(lambda: free_slots() == 1)
    for pool in load.pools:
        for request_id in (-1, -2):
            answer = pool.score(request_id, load.x_BNC, load.t_B).result()[0]
            torch.testing.assert_close(answer, load.expected, rtol=1e-6, atol=1e-6)
    assert [pool.restarts for pool in load.pools] == [1, 1]
    load()
    assert not load.extra()


@pytest.mark.slow
def test_a_killed_teacher_loses_no_request_and_is_replaced(load):
    wait_until(load.extra, load)
    victim = load.extra()
    process = ray.get(victim.__ray_call__.remote(lambda self: os.getpid()))
    answers = [load.ask(pool, request_id) for pool in load.pools for request_id in (-1, -2)]
    os.kill(process, signal.SIGKILL)
    for answer in answers:
        torch.testing.assert_close(answer.result()[0], load.expected, rtol=1e-6, atol=1e-6)
    assert sum(pool.restarts for pool in load.pools) >= 1
    wait_until(lambda: load.extra() not in (None, victim), load)
    load()


@pytest.mark.slow
def test_workers_that_are_gone_keep_no_teacher_up(recipe, teacher_set):
    asker = ray.remote(Asker).options(num_cpus=1).remote(recipe, teacher_set)
    asker.ask_on.remote()
    wait_until(lambda: ray.get(teacher_set.autoscaler.counts.remote())[0]["ready"] == 1)
    ray.kill(asker)  # with requests open
    wait_until(lambda: free_slots() == 1)
    assert ray.get(teacher_set.autoscaler.counts.remote()) == [{"started": 0, "ready": 0}]


def test_at_the_end_all_go_also_one_that_no_node_has_taken(load, teacher_set):
    with an_occupied_slot():
        wait_until(lambda: load.counts() == (1, 0), load)
        teacher_set.stop()
        left = [("class_name", "=", "TeacherActor"), ("state", "!=", "DEAD")]
        here = ray.get_runtime_context().gcs_address  # another Ray may run beside it
        wait_until(lambda: not list_actors(here, filters=left))


@pytest.mark.slow
def test_an_autoscaler_that_dies_takes_its_teachers_and_starts_others(load):
    wait_until(load.extra, load)
    victim = load.extra()
    process = ray.get(load.autoscaler.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(process, signal.SIGKILL)
    load()
    wait_until(lambda: load.extra() not in (None, victim), load)
    load()
