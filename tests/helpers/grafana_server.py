"""A stand-in for Grafana's HTTP API, as strict as the real one or stricter: it checks tokens,
methods, paths, bodies and what they refer to, refuses unknown fields, and keeps what it is given.

Sources: Grafana's HTTP API reference (folder, data source, dashboard, alerting provisioning).
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

TOKEN = "glsa_right"
UID = r"^[a-zA-Z0-9_-]{1,40}$"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Folder(Body):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1)


class FolderUpdate(Body):
    title: str = Field(min_length=1)
    overwrite: bool = False
    version: int | None = None


class DataSource(Body):
    uid: str = Field(pattern=UID)
    name: str = Field(min_length=1)
    type: Literal["prometheus"]
    access: Literal["proxy", "direct"]
    url: str = Field(pattern=r"^https?://")
    jsonData: dict[str, str]


class Reference(Body):
    type: Literal["prometheus"]
    uid: str = Field(pattern=UID)


class Place(Body):
    x: int = Field(ge=0, lt=24)
    y: int = Field(ge=0)
    w: int = Field(ge=1, le=24)
    h: int = Field(ge=1)


class Target(Body):
    refId: str = Field(pattern=r"^[A-Z]$")
    datasource: Reference
    expr: str = Field(min_length=1)
    legendFormat: str
    range: bool


class Chart(Body):
    id: int = Field(ge=1)
    type: Literal["timeseries"]
    title: str = Field(min_length=1)
    description: str
    datasource: Reference
    gridPos: Place
    fieldConfig: dict[str, Any]
    options: dict[str, Any]
    targets: list[Target] = Field(min_length=1)


class Model(Body):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1)
    tags: list[str]
    schemaVersion: int = Field(ge=36)
    timezone: Literal["browser", "utc"]
    editable: bool
    refresh: str = Field(pattern=r"^\d+[smh]$")
    time: dict[Literal["from", "to"], str]
    templating: dict[Literal["list"], list[dict[str, Any]]]
    panels: list[Chart] = Field(min_length=1)
    version: int | None = None


class Save(Body):
    dashboard: Model
    folderUid: str = Field(pattern=UID)
    overwrite: bool = False
    message: str = ""


class Span(Body):
    start: int = Field(alias="from", ge=1)
    to: int = Field(ge=0)


class Question(Body):
    refId: str = Field(pattern=r"^[A-Z]$")
    datasourceUid: str
    relativeTimeRange: Span
    model: dict[str, Any]


class Rule(Body):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1, max_length=190)
    folderUID: str = Field(pattern=UID)
    ruleGroup: str = Field(min_length=1, max_length=190)
    condition: str
    lasting: str = Field(alias="for", pattern=r"^\d+[smh]$")
    noDataState: Literal["NoData", "OK", "Alerting", "KeepLast"]
    execErrState: Literal["Error", "OK", "Alerting", "KeepLast"]
    labels: dict[str, str]
    annotations: dict[str, str]
    data: list[Question] = Field(min_length=1)


class RuleGroup(Body):
    title: str
    folderUid: str = Field(pattern=UID)
    interval: int = Field(ge=10, multiple_of=10)
    rules: list[Rule]


class Refused(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Grafana:
    """What it keeps, by UID, and the requests that changed something."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.folders: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, token: str, body: Any) -> Any:
        """Raises Refused, or pydantic's ValidationError for a body that is wrong."""
        if token != f"Bearer {TOKEN}":
            raise Refused(401, "Invalid API key")
        for pattern, calls in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                if method not in calls:
                    raise Refused(405, "Method not allowed")
                result = calls[method](self, *found.groups(), *([] if body is None else [body]))
                if method != "GET":
                    self.writes.append(f"{method} {path}")
                return result
        raise Refused(404, "Not found")

    def settings(self) -> Any:
        return {"buildInfo": {"version": self.version, "edition": "Open Source"}}

    def get_folder(self, uid: str) -> Any:
        return _there(self.folders, uid, "folder not found")

    def create_folder(self, body: Any) -> Any:
        folder = Folder.model_validate(body)
        if folder.uid in self.folders:
            raise Refused(409, "a folder with the same uid already exists")
        self.folders[folder.uid] = {**body, "id": 7, "version": 1, "canAdmin": True}
        return self.folders[folder.uid]

    def update_folder(self, uid: str, body: Any) -> Any:
        update, folder = FolderUpdate.model_validate(body), self.get_folder(uid)
        if not update.overwrite and update.version != folder["version"]:
            raise Refused(412, "the folder has been changed by someone else")
        folder |= {"title": update.title, "version": folder["version"] + 1}
        return folder

    def get_source(self, uid: str) -> Any:
        return _there(self.sources, uid, "Data source not found")

    def create_source(self, body: Any) -> Any:
        source = DataSource.model_validate(body)
        if any(source.name == other["name"] for other in self.sources.values()):
            raise Refused(409, "data source with the same name already exists")
        self.sources[source.uid] = {**body, "orgId": 1, "readOnly": False, "version": 1}
        return {"message": "Datasource added", "datasource": self.sources[source.uid]}

    def update_source(self, uid: str, body: Any) -> Any:
        source, before = DataSource.model_validate(body), self.get_source(uid)
        if source.uid != uid:
            raise Refused(400, "uid does not match")
        self.sources[uid] = {**before, **body, "version": before["version"] + 1}
        return {"message": "Datasource updated", "datasource": self.sources[uid]}

    def get_dashboard(self, uid: str) -> Any:
        return _there(self.dashboards, uid, "Dashboard not found")

    def save_dashboard(self, body: Any) -> Any:
        save = Save.model_validate(body)
        self._check_panels(save)
        model, uid = body["dashboard"], save.dashboard.uid
        before = self.dashboards.get(uid)
        version = before["dashboard"]["version"] if before else 0
        if before and not save.overwrite and save.dashboard.version != version:
            raise Refused(412, "The dashboard has been changed by someone else")
        self.dashboards[uid] = {
            "dashboard": {**model, "id": 5, "version": version + 1},
            "meta": {"folderUid": save.folderUid, "canSave": True},
        }
        return {"uid": uid, "status": "success", "version": version + 1}

    def _check_panels(self, save: Save) -> None:
        if save.folderUid not in self.folders:
            raise Refused(400, "folder not found")
        taken: set[tuple[int, int]] = set()
        for panel in save.dashboard.panels:
            for target in panel.targets:
                self.get_source(target.datasource.uid)
            at = panel.gridPos
            cells = {(x, y) for x in range(at.x, at.x + at.w) for y in range(at.y, at.y + at.h)}
            if at.x + at.w > 24 or cells & taken:
                raise Refused(400, f"panel {panel.title} does not fit the grid")
            taken |= cells
        if len({panel.id for panel in save.dashboard.panels}) < len(save.dashboard.panels):
            raise Refused(400, "panel ids are not unique")

    def get_group(self, folder: str, name: str) -> Any:
        return _there(self.groups, f"{folder}/{name}", "rule group not found")

    def put_group(self, folder: str, name: str, body: Any) -> Any:
        group = RuleGroup.model_validate(body)
        self.get_folder(folder)
        if (group.folderUid, group.title) != (folder, name):
            raise Refused(400, "group and path differ")
        for rule in group.rules:
            if (rule.folderUID, rule.ruleGroup) != (folder, name):
                raise Refused(400, f"rule {rule.title} is of another group")
            if rule.condition not in [question.refId for question in rule.data]:
                raise Refused(400, f"rule {rule.title}: no query {rule.condition}")
            for question in rule.data:
                if question.datasourceUid != "__expr__":
                    self.get_source(question.datasourceUid)
                if question.model.get("refId") != question.refId:
                    raise Refused(400, f"rule {rule.title}: refId differs in the model")
        own = {"id": 3, "orgID": 1, "provenance": "api", "isPaused": False}
        kept = {**body, "rules": [{**rule, **own} for rule in body["rules"]]}
        self.groups[f"{folder}/{name}"] = kept
        return kept


# Data sources are known by their UIDs only, as in Grafana 13.
ROUTES: dict[str, dict[str, Callable[..., Any]]] = {
    "/api/frontend/settings": {"GET": Grafana.settings},
    "/api/folders": {"POST": Grafana.create_folder},
    "/api/folders/([^/]+)": {"GET": Grafana.get_folder, "PUT": Grafana.update_folder},
    "/api/datasources": {"POST": Grafana.create_source},
    "/api/datasources/uid/([^/]+)": {"GET": Grafana.get_source, "PUT": Grafana.update_source},
    "/api/dashboards/db": {"POST": Grafana.save_dashboard},
    "/api/dashboards/uid/([^/]+)": {"GET": Grafana.get_dashboard},
    "/api/v1/provisioning/folder/([^/]+)/rule-groups/([^/]+)": {
        "GET": Grafana.get_group,
        "PUT": Grafana.put_group,
    },
}


@contextmanager
def grafana(version: str = "13.0.1") -> Iterator[Grafana]:
    """A server for the block, on a port of its own."""
    kept = Grafana(version)

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = self.headers.get("Authorization", "")
            try:
                status, answer = 200, kept.answer(self.command, self.path, token, body)
            except Refused as refused:
                status, answer = refused.status, {"message": refused.message}
            except ValidationError as error:
                status, answer = 400, {"message": f"bad request data: {error}"}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _there(kept: dict[str, dict[str, Any]], uid: str, otherwise: str) -> dict[str, Any]:
    if uid not in kept:
        raise Refused(404, otherwise)
    return kept[uid]
