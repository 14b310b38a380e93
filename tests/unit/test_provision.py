"""`flash-ray telemetry provision` against a strict stand-in for Grafana."""

import socket

import pytest

from flash_ray.cli.app import main
from flash_ray.telemetry.alerts import ALERTS
from flash_ray.telemetry.dashboards import DASHBOARDS
from tests.helpers.grafana_server import TOKEN, grafana

PARTS = 3 + len(DASHBOARDS)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command; (exit code, stdout, stderr)."""

    def command(url, *words, token=TOKEN):
        monkeypatch.delenv("GRAFANA_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("GRAFANA_TOKEN", token)
        with pytest.raises(SystemExit) as ended:
            main(["telemetry", "provision", "--grafana", url, *words])
        return ended.value.code, *capsys.readouterr()

    return command


def refuses(ended, *says):
    code, out, error = ended
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert all(words in error for words in says), error


def test_everything_is_put_in_place_once(run):
    with grafana() as server:
        code, out, error = run(server.url, "--prometheus", "http://prometheus:9090")
        assert (code, error) == (0, "")
        assert out.count("create: ") == len(out.splitlines()) == PARTS
        assert server.sources["flash-ray-prometheus"]["url"] == "http://prometheus:9090"
        assert list(server.dashboards) == [board.uid for board in DASHBOARDS]
        (group,) = server.groups.values()
        assert [rule["title"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
        writes = list(server.writes)
        assert len(writes) == PARTS
        code, out, _ = run(server.url + "/", "--prometheus", "http://prometheus:9090")
        assert (code, out.count("in step: ")) == (0, PARTS)
        assert server.writes == writes


def test_what_was_changed_by_hand_is_shown_and_set_right(run):
    with grafana() as server:
        run(server.url)
        model = server.dashboards["flash-ray-training"]["dashboard"]
        model["panels"][0]["title"] = "Mine"
        model["panels"].pop()
        server.folders["flash-ray"]["title"] = "old"
        server.sources["flash-ray-prometheus"]["url"] = "http://elsewhere"
        next(iter(server.groups.values()))["rules"][1]["for"] = "9h"
        writes = list(server.writes)

        code, out, _ = run(server.url, "--dry-run")
        assert code == 0 and server.writes == writes
        assert out.count("would change: ") == 4 and out.count("in step: ") == PARTS - 4
        for line in (
            '-    "title": "Mine",',
            '+    "title": "Progress",',
            '- "title": "old",',
            '- "url": "http://elsewhere"',
            '-   "for": "9h",',
            '+   "for": "5m",',
        ):
            assert line.rstrip(",") in out

        code, out, _ = run(server.url)
        assert (code, out.count("change: ")) == (0, 4)
        assert server.dashboards["flash-ray-training"]["dashboard"]["version"] == 2
        code, out, _ = run(server.url)
        assert out.count("in step: ") == PARTS


def test_a_dry_run_against_an_empty_grafana_changes_nothing(run):
    with grafana() as server:
        code, out, _ = run(server.url, "--dry-run")
        assert (code, out.count("would create: "), server.writes) == (0, PARTS, [])
        assert '+ "uid": "flash-ray"' in out


def test_a_token_may_come_from_a_file(run, tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    with grafana() as server:
        code, *_ = run(server.url, "--token-file", str(tmp_path / "token"), token=None)
        assert code == 0


def test_bad_input_is_refused_in_one_line(run, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and never listens
        refuses(run(f"http://127.0.0.1:{probe.getsockname()[1]}"), "does not answer", "start it")
    with grafana() as server:
        refuses(run(server.url, token="wrong"), "the token is rejected", "GRAFANA_TOKEN")
        refuses(run(server.url + "/grafana"), "there is no Grafana at this address")
        refuses(run(server.url, token=None), "GRAFANA_TOKEN: not set")
        refuses(run(server.url, "--dry-run", token=None), "rejected, or there is none")
        refuses(run(server.url, "--token-file", str(tmp_path / "none")), "none cannot be read")
        refuses(run("localhost:3000"), "--grafana: 'localhost:3000'; allowed: http://HOST:PORT")
        refuses(run("http://me:secret@localhost"), "holds a user or password")
        refuses(run(server.url, "--prometheus", "9090"), "--prometheus: '9090'")
        assert server.writes == []
    with grafana("9.5.2") as server:
        refuses(run(server.url), "is Grafana 9.5.2; allowed: 10 and later")


def test_a_data_source_of_the_same_name_is_reported(run):
    with grafana() as server:
        server.sources["mine"] = {"name": "flash_ray Prometheus"}
        code, out, error = run(server.url)
        assert (code, error.count("\n")) == (2, 1)
        assert "answers 409" in error and "same name already exists" in error


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/folders", {"uid": "a b", "title": "x"}),
        ("/api/folders", {"uid": "a", "title": "x", "extra": 1}),
        ("/api/dashboards/db", {"dashboard": {}, "folderUid": "flash-ray"}),
        ("/api/datasources", {"uid": "a", "name": "x", "type": "loki"}),
    ],
)
def test_the_stand_in_refuses_what_grafana_would(path, body):
    with grafana() as server:
        with pytest.raises(ValueError, match="validation error"):
            server.answer("POST", path, f"Bearer {TOKEN}", body)
