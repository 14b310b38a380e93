import math
from dataclasses import replace

import pytest

from flash_ray.trainer.divergence import WINDOW, Diverged, DivergenceMonitor
from tests.helpers.metrics import update_metrics

HEALTHY = {"dmd_gradient": 0.8, "fake_score_loss": 0.4}


def observe(monitor, iterations, first=1, **changed):
    for iteration in range(first, first + iterations):
        monitor.observe(update_metrics(iteration, **HEALTHY | changed))


def test_a_healthy_run_passes():
    observe(DivergenceMonitor(), 200)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_not_finite_ends_the_run_at_once(value):
    monitor = DivergenceMonitor()
    observe(monitor, 3)
    with pytest.raises(Diverged, match="student_loss is (nan|inf) at iteration 4"):
        observe(monitor, 1, first=4, student_loss=value)


@pytest.mark.parametrize(
    ("changed", "fate"), [({"spread": 0.1}, "collapsed"), ({"excess": 9.0}, "blown up")]
)
def test_samples_that_shrink_or_grow_end_the_run_and_say_since_when(changed, fate):
    monitor = DivergenceMonitor()
    observe(monitor, 30)
    observe(monitor, WINDOW - 1, first=31, **changed)
    with pytest.raises(Diverged, match=f"since iteration 31 .*{fate}"):
        observe(monitor, 1, first=30 + WINDOW, **changed)


def test_a_short_excursion_is_forgiven():
    monitor = DivergenceMonitor()
    for start in (1, 101):
        observe(monitor, WINDOW - 1, first=start, spread=0.1)
        observe(monitor, 1, first=start + WINDOW)


@pytest.mark.parametrize("name", ["dmd_gradient", "fake_score_loss"])
def test_a_measure_that_grows_tenfold_ends_the_run(name):
    monitor = DivergenceMonitor()
    observe(monitor, 50)
    with pytest.raises(Diverged, match=f"{name} is .* times its beginning since iteration"):
        observe(monitor, 2 * WINDOW, first=51, **{name: 12 * HEALTHY[name]})


def test_a_gradient_that_begins_at_zero_may_become_ordinary():
    monitor = DivergenceMonitor()
    observe(monitor, WINDOW, dmd_gradient=0.0)
    observe(monitor, 50, first=WINDOW + 1, dmd_gradient=2.0)


def test_the_alarm_level_is_1_where_a_run_ends():
    monitor = DivergenceMonitor()
    observe(monitor, WINDOW, excess=2.0, dmd_gradient=1.0, fake_score_loss=1.0)
    assert monitor.alarm_level == {"spread": pytest.approx(0.2), "excess": pytest.approx(0.5)}
    observe(monitor, 2 * WINDOW, first=WINDOW + 1, dmd_gradient=1.0, fake_score_loss=9.0)
    assert monitor.alarm_level["fake_score_loss"] == pytest.approx(0.9)
    with pytest.raises(Diverged, match="fake_score_loss"):
        for iteration in range(3 * WINDOW + 1, 4 * WINDOW + 1):
            observe(monitor, 1, first=iteration, dmd_gradient=1.0, fake_score_loss=13.0)
            assert monitor.alarm_level["fake_score_loss"] <= 1
    assert monitor.alarm_level["fake_score_loss"] > 1


def test_a_method_without_a_dmd_gradient_is_watched_too():
    monitor = DivergenceMonitor()
    for iteration in range(1, 3 * WINDOW):
        metrics = update_metrics(iteration, fake_score_loss=0.4)
        monitor.observe(replace(metrics, diagnostics={"other": 1.0}))
    with pytest.raises(Diverged, match="other is nan"):
        monitor.observe(replace(metrics, diagnostics={"other": math.nan}))
