"""Brings a Grafana into step with the code: folder, data source, dashboards, alert rules.

Grafana evaluates the alerts itself (its provisioning API, through grafana-client), so that they
need no access to Prometheus' files; infra/prometheus/rules.yml has the same for an Alertmanager.
Everything has a fixed UID: a second time nothing changes.
"""

import difflib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import niquests
from grafana_client import GrafanaApi
from grafana_client.client import GrafanaClientError, GrafanaException

from flash_ray.errors import UserError
from flash_ray.storage.address import split_address
from flash_ray.telemetry.alerts import GROUP, grafana_rule_group
from flash_ray.telemetry.dashboards import DASHBOARDS
from flash_ray.telemetry.panels import DATASOURCE, Dashboard

FOLDER = {"uid": "flash-ray", "title": "flash_ray"}
OLDEST = 10  # major version
CURES = {
    401: "the token is rejected, or there is none; allowed: a service account's token; set "
    "GRAFANA_TOKEN or --token-file",
    403: "the token may not do this; allowed: a service account with the role Admin; give it that",
    404: "there is no Grafana at this address; allowed: its base address; correct --grafana",
}


@dataclass(frozen=True)
class Change:
    """What one resource in Grafana is, and what it is to be.

    Args:
        resource: its kind and UID.
        current: what is there of what is wanted; None: nothing is there.
    """

    resource: str
    wanted: dict[str, Any]
    current: dict[str, Any] | None

    @property
    def needed(self) -> bool:
        """Whether there is something to do."""
        return self.current != self.wanted

    def diff(self) -> str:
        """Returns a unified diff of JSON from what is there to what is wanted; "" if they agree."""
        current, wanted = (
            [] if side is None else json.dumps(side, indent=1, sort_keys=True).splitlines()
            for side in (self.current, self.wanted)
        )
        names = (f"{self.resource} (Grafana)", f"{self.resource} (flash_ray)")
        return "\n".join(difflib.unified_diff(current, wanted, *names, lineterm="", n=2))


@dataclass(frozen=True)
class _Resource:
    """How to read a resource in Grafana (an error 404: it is not there), create and change it."""

    name: str
    wanted: dict[str, Any]
    read: Callable[[], dict[str, Any]]
    create: Callable[[], Any]
    update: Callable[[], Any]


def provision(url: str, token: str | None, prometheus: str, dry_run: bool) -> Iterator[Change]:
    """Yields every resource as it was, and then, unless it is a dry run, brings it into step.

    Args:
        url: Grafana's base address.
        token: of a service account; None: as anybody, who may read where Grafana lets them.
        prometheus: where Grafana finds Prometheus.

    Raises:
        UserError: an address is malformed; Grafana does not answer, rejects the token, or is
            too old.
    """
    _validate_address("--prometheus", prometheus)
    _validate_address("--grafana", url)
    grafana = GrafanaApi.from_url(url.rstrip("/") + "/", credential=token, timeout=10)
    with _errors_explained(url):
        _validate_version(url, grafana.health.check())
        for resource in _resources(grafana, prometheus):
            change = Change(resource.name, resource.wanted, _current(resource))
            yield change
            if change.needed and not dry_run:
                (resource.create if change.current is None else resource.update)()


def _resources(grafana: GrafanaApi, prometheus: str) -> Iterator[_Resource]:
    """Yields them in the order in which they need each other."""
    uid, folder = FOLDER["uid"], grafana.folder
    yield _Resource(
        f"folder {uid}",
        FOLDER,
        lambda: folder.get_folder(uid),
        lambda: folder.create_folder(FOLDER["title"], uid),
        lambda: folder.update_folder(uid, FOLDER["title"], overwrite=True),
    )
    source, sources = _datasource(prometheus), grafana.datasource
    yield _Resource(
        f"data source {source['uid']}",
        source,
        lambda: sources.get_datasource_by_uid(source["uid"]),
        lambda: sources.create_datasource(source),
        lambda: sources.update_datasource_by_uid(source["uid"], source),
    )
    for dashboard in DASHBOARDS:
        yield _dashboard(grafana, dashboard)
    group, alerting = grafana_rule_group(uid), grafana.alertingprovisioning
    yield _Resource(
        f"alert rules {GROUP}",
        group,
        lambda: alerting.get_rule_group(uid, GROUP),
        lambda: alerting.update_rule_group(uid, GROUP, group),
        lambda: alerting.update_rule_group(uid, GROUP, group),
    )


def _dashboard(grafana: GrafanaApi, dashboard: Dashboard) -> _Resource:
    wanted = {"dashboard": dashboard.json(), "folderUid": FOLDER["uid"]}

    def read() -> dict[str, Any]:
        answer = grafana.dashboard.get_dashboard(dashboard.uid)
        return {"dashboard": answer["dashboard"], "folderUid": answer["meta"].get("folderUid")}

    def save() -> None:
        grafana.dashboard.update_dashboard({**wanted, "overwrite": True})

    return _Resource(f"dashboard {dashboard.uid}", wanted, read, save, save)


def _datasource(prometheus: str) -> dict[str, Any]:
    return {
        **DATASOURCE,
        "name": "flash_ray Prometheus",
        "access": "proxy",
        "url": prometheus,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }


def _current(resource: _Resource) -> dict[str, Any] | None:
    try:
        current: dict[str, Any] = _only(resource.read(), resource.wanted)
        return current
    except GrafanaClientError as error:
        if error.status_code == 404:
            return None
        raise


def _only(current: Any, wanted: Any) -> Any:
    """Returns those fields of what Grafana has that are wanted; it adds its own."""
    if isinstance(current, dict) and isinstance(wanted, dict):
        return {key: _only(current[key], value) for key, value in wanted.items() if key in current}
    if isinstance(current, list) and isinstance(wanted, list) and len(current) == len(wanted):
        return [_only(*pair) for pair in zip(current, wanted, strict=True)]
    return current


def _validate_version(url: str, build: Any) -> None:
    version = str((build or {}).get("version", ""))
    major = version.partition(".")[0]
    if not major.isdigit():
        raise UserError(f"--grafana: {url}: {CURES[404]}")
    if int(major) < OLDEST:
        raise UserError(
            f"--grafana: {url} is Grafana {version}; allowed: {OLDEST} and later; upgrade it"
        )


def _validate_address(option: str, url: str) -> None:
    parts = split_address(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{option}: {url!r}; allowed: http://HOST:PORT or https://...; correct it")
    if parts.username or parts.password:
        raise UserError(f"{option}: holds a user or password; allowed: none; use a token instead")


@contextmanager
def _errors_explained(url: str) -> Iterator[None]:
    """Raises UserError for what may go wrong between here and Grafana in the block."""
    try:
        yield
    except GrafanaException as error:
        if error.status_code in CURES:
            raise UserError(f"--grafana: {url}: {CURES[error.status_code]}") from error
        if error.status_code:
            raise UserError(
                f"--grafana: {url} answers {error.status_code}: {error.message}; correct what it "
                "says and run the command again"
            ) from error
        raise _unreachable(url) from error
    except niquests.exceptions.JSONDecodeError as error:
        raise UserError(f"--grafana: {url}: {CURES[404]}") from error
    except niquests.exceptions.RequestException as error:
        raise _unreachable(url) from error


def _unreachable(url: str) -> UserError:
    return UserError(
        f"--grafana: {url} does not answer; allowed: a Grafana that runs and can be reached from "
        "here; correct the address, or start it"
    )
