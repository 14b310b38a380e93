"""The record of an iteration, and the clock of its stages."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flash_ray.trainer.metrics import StageTimer, TeacherStats, UpdateMetrics
from tests.helpers.metrics import update_metrics

finite = st.floats(allow_nan=False, allow_infinity=False)


def test_a_stage_inside_another_is_counted_once():
    now = 0.0
    stage = StageTimer(lambda: now)
    with stage("student"):
        now += 2
        with stage("data"):
            now += 3
        now += 1
        with stage("data"), stage("teachers"):
            now += 5
    assert stage.seconds == {"data": 3, "teachers": 5, "student": 3}


@given(finite, finite, finite)
def test_a_record_survives_its_line_to_the_last_bit(loss, gradient, norm):
    metrics = replace(
        update_metrics(7, student_loss=loss, dmd_gradient=gradient),
        teachers={"base": {1: TeacherStats(1.0)}, "other": {3: TeacherStats(0.5, norm, -1.0)}},
        scores={"t2i": gradient},
    )
    line = metrics.to_json()
    assert "\n" not in line
    assert UpdateMetrics.from_json(line) == metrics


def test_a_line_of_anything_else_is_refused():
    line = update_metrics(1).to_json()
    for bad in ("{}", line.replace("student_loss", "loss"), line[:-1]):
        with pytest.raises(ValidationError):
            UpdateMetrics.from_json(bad)


def test_speed_is_of_all_workers():
    metrics = replace(update_metrics(1), images=16, seconds=2.0)
    assert metrics.images_per_second == 8.0
