"""Dashboards, alerts and what infra/ holds of them; promtool judges the rules."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flash_ray.telemetry.alerts import ALERTS
from flash_ray.telemetry.dashboards import DASHBOARDS
from tests.helpers.write_infra import INFRA, infra_files

PACKAGE = Path(__file__).parents[2] / "flash_ray"
promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def queries():
    yield from (
        query.expr for board in DASHBOARDS for panel in board.panels for query in panel.queries
    )
    yield from (alert.expr for alert in ALERTS)


def test_infra_is_in_step_with_the_code():
    for name, text in infra_files().items():
        assert (INFRA / name).read_text() == text, "run `python -m tests.helpers.write_infra`"
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
