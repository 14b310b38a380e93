import math

import pytest

from flash_ray.trainer.divergence import WINDOW, Diverged, DivergenceMonitor

HEALTHY = {"spread": 1.0, "excess": 0.9, "dmd_gradient": 0.8, "fake_loss": 0.4, "student_loss": 0.3}


def observe(monitor, updates, first=1, **changed):
    for update in range(first, first + updates):
        monitor.observe(update, {**HEALTHY, **changed})


def test_a_healthy_run_passes():
    observe(DivergenceMonitor(), 200)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_not_finite_ends_the_run_at_once(value):
    monitor = DivergenceMonitor()
    observe(monitor, 3)
    with pytest.raises(Diverged, match="student_loss is (nan|inf) at update 4"):
        observe(monitor, 1, first=4, student_loss=value)


@pytest.mark.parametrize(
    ("changed", "fate"), [({"spread": 0.1}, "collapsed"), ({"excess": 9.0}, "blown up")]
)
def test_samples_that_shrink_or_grow_end_the_run_and_say_since_when(changed, fate):
    monitor = DivergenceMonitor()
    observe(monitor, 30)
    observe(monitor, WINDOW - 1, first=31, **changed)
    with pytest.raises(Diverged, match=f"since update 31 .*{fate}"):
        observe(monitor, 1, first=30 + WINDOW, **changed)


def test_a_short_excursion_is_forgiven():
    monitor = DivergenceMonitor()
    for start in (1, 101):
        observe(monitor, WINDOW - 1, first=start, spread=0.1)
        observe(monitor, 1, first=start + WINDOW)


@pytest.mark.parametrize("name", ["dmd_gradient", "fake_loss"])
def test_a_measure_that_grows_tenfold_ends_the_run(name):
    monitor = DivergenceMonitor()
    observe(monitor, 50)
    with pytest.raises(Diverged, match=f"{name} is .* times its beginning since update"):
        observe(monitor, 2 * WINDOW, first=51, **{name: 12 * HEALTHY[name]})


def test_a_gradient_that_begins_at_zero_may_become_ordinary():
    monitor = DivergenceMonitor()
    observe(monitor, WINDOW, dmd_gradient=0.0)
    observe(monitor, 50, first=WINDOW + 1, dmd_gradient=2.0)
