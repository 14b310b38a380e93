"""Every query of every dashboard and alert, against a real Prometheus that scrapes real runs."""

import json
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image

from flash_ray.cluster.session import free_ports
from flash_ray.errors import UserError
from flash_ray.telemetry.alerts import ALERTS
from flash_ray.telemetry.dashboards import DASHBOARDS, SERVING
from tests.helpers.commands import FLASH_RAY, user_environment
from tests.helpers.draw_dashboards import draw, read_panels
from tests.helpers.prometheus import query, query_range
from tests.helpers.write_infra import INFRA

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed"),
]
DISCOVERY = "prom_metrics_service_discovery.json"


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes what is linked into its folder `ray`."""

    url: str
    folder: Path
    began: float

    def follow(self, process: subprocess.Popen, name: str) -> None:
        """Scrapes the Ray that a command starts, as soon as it is there."""
        while not (session := _session(process)) or not (session / DISCOVERY).exists():
            assert process.poll() is None, f"{name} ended"
            time.sleep(0.5)
        (self.folder / "ray" / f"{name}.json").symlink_to(session / DISCOVERY)


def _session(process: subprocess.Popen) -> Path | None:
    """The session directory of a command's Ray."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:  # it has just ended
            continue
        for word in words:
            if word.startswith("--session-dir="):
                return Path(word.partition("=")[2])
    return None


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """The configuration of infra/, but that it looks every second."""
    folder = shutil.copytree(INFRA / "prometheus", tmp_path_factory.mktemp("prometheus") / "infra")
    (folder / "ray").mkdir()
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["file_sd_configs"][0]["refresh_interval"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    words = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
    while not _ready(address):
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    yield Prometheus(f"http://{address}", folder, time.time())
    process.send_signal(signal.SIGTERM)
    process.wait()


def _ready(address):
    try:
        return urllib.request.urlopen(f"http://{address}/-/ready").status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def studied(prometheus, base, home, tmp_path_factory):
    """A study has run: trials with teachers as actors, scores and checkpoints."""
    folder = tmp_path_factory.mktemp("studied")
    small = {
        "base": str(base),
        "data.num_cases": 8,
        "runtime.num_workers": 1,
        "runtime.micro_batch_size": 4,
        "runtime.checkpoint_every": 8,
        "teacher_defaults.placement": "actors",
    }
    study = {
        "name": "small",
        "recipe": "miniature",
        "seeds": [0],
        "budget": {"iterations": 32},
        "curve_every": 8,
        "cases": {"t2i": 1, "edit": 1},
        "arms": {
            "half": {"tasks": {"t2i": 1, "edit": 1}},
            "edits": {"tasks": {"t2i": 1, "edit": 3}},
        },
        "set": small,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    # A small run is over before the usual 10 s are.
    environment = user_environment(home, RAY_metrics_report_interval_ms="3000")
    words = [FLASH_RAY, "study", "run", "study.yaml", "--out", "out", "--at-once", "1"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
    prometheus.follow(process, "study")
    assert process.wait() == 0, (folder / "log").read_text()


@pytest.fixture(scope="module")
def requested(prometheus, studied, start):
    """Endpoints have answered and rejected requests until Prometheus has seen it."""
    served = start()
    threading.Thread(target=prometheus.follow, args=(served.process, "serve")).start()
    picture = {"model": "plain", "prompt": "A red circle"}
    # `n` beyond the limit, as a client that errs.
    for number in range(120):
        assert served.call("POST", "/v1/images/generations", picture)[0] == 200
        assert served.call("POST", "/v1/images/generations", {**picture, "n": 10**6})[0] == 400
        panels = read_panels(SERVING, prometheus.url, prometheus.began, time.time())
        if all(panels.values()) and number > 30:  # enough for a picture
            return
        time.sleep(1)
    pytest.fail(f"no data: {[title for title, series in panels.items() if not series]}")


def test_every_panel_has_data_and_is_drawn(prometheus, requested, tmp_path):
    now = time.time()
    for dashboard in DASHBOARDS:
        panels = read_panels(dashboard, prometheus.url, prometheus.began, now)
        empty = [
            f"{panel.title}: {panel_query.expr}"
            for panel in dashboard.filled("1m")
            for panel_query in panel.queries
            if not query_range(prometheus.url, panel_query.expr, prometheus.began, now, 2)
        ]
        assert not empty, dashboard.title
        for series in panels.values():
            assert all(name.strip() for name, _ in series)
        path = tmp_path / f"{dashboard.uid}.png"
        draw(dashboard, panels, path)
        assert 10_000 < path.stat().st_size < 150_000
        with Image.open(path) as picture:
            assert len(picture.convert("L").getcolors()) > 50


def test_every_variable_has_values(prometheus, requested):
    for dashboard in DASHBOARDS:
        if dashboard.variable:
            label, metric = dashboard.variable
            values = query(prometheus.url, f"label/{label}/values", **{"match[]": metric})
            assert values, dashboard.title


def test_every_alert_is_evaluated_on_data(prometheus, requested):
    (group,) = query(prometheus.url, "rules")["groups"]
    rules = {rule["name"]: rule for rule in group["rules"]}
    assert set(rules) == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        assert (rules[alert.name]["health"], rules[alert.name].get("lastError")) == ("ok", None)
        measured, _, limit = alert.expr.partition(" > ")
        for side in (measured, limit):
            series = query_range(prometheus.url, side, prometheus.began, time.time(), 2)
            assert series, f"{alert.name}: {side}"


def test_the_values_are_those_of_the_run(prometheus, requested, tmp_path):
    end = time.time()

    def highest(expr):
        series = query_range(prometheus.url, expr, prometheus.began, end, 1)
        return {json.dumps(dict(one.labels)): max(one.values) for one in series}

    updates = highest("max by (run) (ray_flash_train_update)")
    assert set(updates) == {'{"run": "small-half-0"}', '{"run": "small-edits-0"}'}
    assert all(24 <= value <= 32 for value in updates.values())
    (finished,) = highest('max by (study) (ray_flash_study_trials{state="finished"})').values()
    assert finished >= 1
    weights = highest("max by (teacher) (ray_flash_teacher_weight_ratio)")
    assert set(weights.values()) == {1.0}
    (places,) = highest(
        'max(ray_flash_condition_lookups_total{place="store",outcome="miss"})'
    ).values()
    assert places >= 2


def test_what_prometheus_rejects_is_one_line(prometheus):
    with pytest.raises(UserError, match="--prometheus: .*parse error"):
        query(prometheus.url, "query", query="sum(")
    with pytest.raises(UserError, match="does not answer as Prometheus does"):
        query("http://127.0.0.1:9", "rules")
