"""How many teachers a queue calls for, and that the answer settles."""

import random

import pytest

from flash_ray.teachers.autoscaler import Pace, wanted

PACE = Pace(crowded=1.25, idle=0.5, hire_after_s=5, dismiss_after_s=60)
LOOK = 0.5


def steady(length, seconds):
    return [(100 + LOOK * i, length) for i in range(round(seconds / LOOK) + 1)]


def goal(queue, teachers, fewest=1, most=4, coming=0):
    return wanted(queue, teachers, coming, fewest, most, PACE)


def test_nothing_changes_before_it_has_lasted():
    assert goal([], 2) == 2
    assert goal(steady(8, 4.5), 2) == 2
    assert goal(steady(0, 59.5), 2) == 2


@pytest.mark.parametrize(
    ("questions", "teachers", "expected"),
    [(2, 1, 2), (1, 1, 1), (3, 1, 3), (3, 2, 3), (5, 4, 4), (100, 1, 4), (100, 4, 4)],
)
def test_waiting_questions_hire_as_many_as_they_keep_busy(questions, teachers, expected):
    assert goal(steady(questions, 5), teachers) == expected


@pytest.mark.parametrize(
    ("questions", "teachers", "expected"), [(0, 4, 1), (1, 4, 2), (1, 2, 2), (2, 4, 4), (0, 1, 1)]
)
def test_idle_teachers_are_dismissed(questions, teachers, expected):
    assert goal(steady(questions, 60), teachers) == expected


def test_the_fewest_stay():
    assert goal(steady(0, 600), 3, fewest=2) == 2


def test_nobody_is_hired_while_others_have_no_place_yet_but_they_may_be_dismissed():
    assert goal(steady(4, 600), 2, coming=1) == 2
    assert goal(steady(4, 600), 2, coming=0) == 4
    assert goal(steady(0, 60), 2, coming=1) == 1


def test_a_short_pause_dismisses_nobody_and_a_short_crowd_hires_nobody():
    pause = [(second, 0 if 100 <= second < 140 else 2) for second, _ in steady(0, 90)]
    assert goal(pause, 2) == 2
    crowd = [*steady(1, 60)[:-2], (160, 2), (160.5, 2)]
    assert goal(crowd, 1) == 1


def staff_over_time(workers, think_s, work_s, teachers, most=8, minutes=30, seed=0):
    """A run in small: workers that compute, ask and wait; teachers that take a minute to come."""
    draw = random.Random(seed)
    around = lambda mean: mean * draw.uniform(0.5, 1.5)  # noqa: E731
    computing = [around(think_s) for _ in range(workers)]  # until when
    queue, working, there, coming, log = [], [], teachers, [], []
    counts, now = [teachers], 0.0
    while now < minutes * 60:
        now += 0.05
        if came := sum(at <= now for at in coming):
            there, coming, log = there + came, [at for at in coming if at > now], []
        queue += [at for at in computing if at <= now]
        computing = [at for at in computing if at > now]
        computing += [now + around(think_s) for at in working if at <= now]
        working = [at for at in working if at > now]
        while queue and len(working) < there:
            queue.pop(0)
            working.append(now + around(work_s))
        if not log or now - log[-1][0] >= LOOK:
            log = [*log[-130:], (now, len(queue) + len(working))]
            number = wanted(log, counts[-1], len(coming), 1, most, PACE)
            if number != counts[-1]:
                coming += [now + 60] * max(0, number - counts[-1])
                there -= max(0, counts[-1] - number)
                counts.append(number)
                log = []
    return counts


@pytest.mark.parametrize("teachers", [1, 8])
@pytest.mark.parametrize(
    ("workers", "think_s", "work_s"),
    [(1, 1, 5), (2, 1, 1), (2, 1, 0.2), (4, 1, 0.5), (8, 1, 0.5), (8, 2, 0.5), (8, 1, 4)],
)
def test_a_steady_load_settles_without_flapping(workers, think_s, work_s, teachers):
    counts = staff_over_time(workers, think_s, work_s, teachers)
    assert counts == sorted(counts, reverse=teachers == 8)
