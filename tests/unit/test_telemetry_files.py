"""Dashboards, alerts and what infra/ holds of them; promtool judges the rules."""

import re
import shutil
import subprocess
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest

from flash_ray.telemetry.alerts import ALERTS
from flash_ray.telemetry.dashboards import DASHBOARDS
from flash_ray.telemetry.write import INFRA, files
from flash_ray.trainer.divergence import WINDOW, Diverged, DivergenceMonitor
from flash_ray.trainer.metrics import StageTimer, UpdateMetrics

PACKAGE = Path(__file__).parents[2] / "flash_ray"
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def queries():
    yield from (
        query.expr for board in DASHBOARDS for panel in board.panels for query in panel.queries
    )
    yield from (alert.expr for alert in ALERTS)


def test_infra_is_in_step_with_the_code():
    for name, text in files().items():
        assert (INFRA / name).read_text() == text, "run `python -m flash_ray.telemetry.write`"
    written = {path.stem for path in (INFRA / "grafana").glob("*.json")}
    assert written == {board.uid.removeprefix("flash-ray-") for board in DASHBOARDS}


def test_what_is_measured_is_shown_and_the_other_way_round():
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    measured = set(re.findall(r'"(flash_\w+)"', source)) - {"flash_ray"}
    queried = {name for expr in queries() for name in re.findall(r"ray_(flash_\w+)", expr)}
    bare = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in queried}
    assert len(bare) > 25
    assert bare == measured


def test_uids_panels_and_legends_are_fixed_and_different():
    assert [board.uid for board in DASHBOARDS] == [
        "flash-ray-training",
        "flash-ray-teachers",
        "flash-ray-study",
        "flash-ray-serving",
        "flash-ray-cluster",
    ]
    for board in DASHBOARDS:
        panels = board.json()["panels"]
        positions = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
        assert len(set(positions)) == len({p["title"] for p in panels}) == len(panels)
        assert all(panel["description"] for panel in panels)
        for panel in board.panels:
            for query in panel.queries:
                labels = set(re.findall(r"{{(\w+)}}", query.legend))
                kept = {
                    word
                    for by in re.findall(r"by \(([^)]*)\)", query.expr)
                    for word in by.split(", ")
                }
                assert labels <= kept, f"{panel.title}: {query.legend}"


@promtool
def test_the_rules_are_valid_and_fire_when_they_should(tmp_path):
    folder = shutil.copytree(INFRA / "prometheus", tmp_path / "prometheus")
    for words in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "rules.yml"),
        ("test", "rules", "rules.test.yml"),
    ):
        ended = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    tested = set(re.findall(r"alertname: (\w+)", (folder / "rules.test.yml").read_text()))
    assert tested == {alert.name for alert in ALERTS}


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


HEALTHY = UpdateMetrics(
    iteration=1,
    num_workers=1,
    student_loss=0.3,
    fake_score_loss=1.0,
    diagnostics={"dmd_gradient": 1.0},
    spread=1.0,
    excess=2.0,
    student_grad_norm=1.0,
    fake_score_grad_norm=1.0,
    seconds=1.0,
    stages={},
    teacher_wait_share=0.0,
    memory_mib=1.0,
    images=4,
    teacher_calls=4,
    cpu_seconds=1.0,
    tasks={},
    teachers={},
)


def test_the_alarm_level_is_1_where_a_run_ends():
    monitor, iterations = DivergenceMonitor(), count(1)

    def observe(number: int, fake_score_loss: float) -> None:
        for iteration in islice(iterations, number):
            monitor.observe(replace(HEALTHY, iteration=iteration, fake_score_loss=fake_score_loss))

    observe(WINDOW, 1.0)
    assert monitor.alarm_level == {"spread": pytest.approx(0.2), "excess": pytest.approx(0.5)}
    observe(2 * WINDOW, 9.0)
    assert monitor.alarm_level["fake_score_loss"] == pytest.approx(0.9)
    with pytest.raises(Diverged, match="fake_score_loss"):
        for _ in range(WINDOW):
            observe(1, 13.0)
            assert monitor.alarm_level["fake_score_loss"] <= 1
    assert monitor.alarm_level["fake_score_loss"] > 1
