"""How many teachers a queue calls for, and that the answer settles."""

import random

import pytest

from flash_ray.teachers.autoscaler import ScalingPolicy, desired_teachers
from flash_ray.teachers.protocol import Group

POLICY = ScalingPolicy(
    scale_up_load=1.25, scale_down_load=0.5, scale_up_after_s=5, scale_down_after_s=60
)
OBSERVE_S = 0.5


def steady(length, seconds):
    return [(100 + OBSERVE_S * i, length) for i in range(round(seconds / OBSERVE_S) + 1)]


def goal(queue, teachers, min_actors=1, max_actors=4, starting=0):
    group = Group("base", (0,), min_actors, max_actors)
    return desired_teachers(queue, teachers, starting, group, POLICY)


def test_nothing_changes_before_it_has_lasted():
    assert goal([], 2) == 2
    assert goal(steady(8, 4.5), 2) == 2
    assert goal(steady(0, 59.5), 2) == 2


@pytest.mark.parametrize(
    ("requests", "teachers", "expected"),
    [(2, 1, 2), (1, 1, 1), (3, 1, 3), (3, 2, 3), (5, 4, 4), (100, 1, 4), (100, 4, 4)],
)
def test_waiting_requests_add_as_many_as_they_keep_busy(requests, teachers, expected):
    assert goal(steady(requests, 5), teachers) == expected


@pytest.mark.parametrize(
    ("requests", "teachers", "expected"), [(0, 4, 1), (1, 4, 2), (1, 2, 2), (2, 4, 4), (0, 1, 1)]
)
def test_idle_teachers_are_removed(requests, teachers, expected):
    assert goal(steady(requests, 60), teachers) == expected


def test_the_minimum_stays():
    assert goal(steady(0, 600), 3, min_actors=2) == 2


def test_none_is_added_while_others_are_starting_but_these_may_be_removed():
    assert goal(steady(4, 600), 2, starting=1) == 2
    assert goal(steady(4, 600), 2, starting=0) == 4
    assert goal(steady(0, 60), 2, starting=1) == 1


def test_a_short_pause_removes_none_and_a_short_queue_adds_none():
    pause = [(second, 0 if 100 <= second < 140 else 2) for second, _ in steady(0, 90)]
    assert goal(pause, 2) == 2
    burst = [*steady(1, 60)[:-2], (160, 2), (160.5, 2)]
    assert goal(burst, 1) == 1


def teachers_over_time(workers, think_s, work_s, teachers, most=8, minutes=30, seed=0):
    """A run in small: workers that compute, ask and wait; teachers that take a minute to come."""
    draw = random.Random(seed)
    around = lambda mean: mean * draw.uniform(0.5, 1.5)  # noqa: E731
    computing = [around(think_s) for _ in range(workers)]  # until when
    queue, working, ready, starting, log = [], [], teachers, [], []
    counts, now = [teachers], 0.0
    while now < minutes * 60:
        now += 0.05
        if came := sum(at <= now for at in starting):
            ready, starting, log = ready + came, [at for at in starting if at > now], []
        queue += [at for at in computing if at <= now]
        computing = [at for at in computing if at > now]
        computing += [now + around(think_s) for at in working if at <= now]
        working = [at for at in working if at > now]
        while queue and len(working) < ready:
            queue.pop(0)
            working.append(now + around(work_s))
        if not log or now - log[-1][0] >= OBSERVE_S:
            log = [*log[-130:], (now, len(queue) + len(working))]
            number = goal(log, counts[-1], 1, most, len(starting))
            if number != counts[-1]:
                starting += [now + 60] * max(0, number - counts[-1])
                ready -= max(0, counts[-1] - number)
                counts.append(number)
                log = []
    return counts


@pytest.mark.parametrize("teachers", [1, 8])
@pytest.mark.parametrize(
    ("workers", "think_s", "work_s"),
    [(1, 1, 5), (2, 1, 1), (2, 1, 0.2), (4, 1, 0.5), (8, 1, 0.5), (8, 2, 0.5), (8, 1, 4)],
)
def test_a_steady_load_settles_without_flapping(workers, think_s, work_s, teachers):
    counts = teachers_over_time(workers, think_s, work_s, teachers)
    assert counts == sorted(counts, reverse=teachers == 8)
