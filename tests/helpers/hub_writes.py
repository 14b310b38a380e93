"""A Hugging Face hub on this machine: what its client asks for to make and fill a repository."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from flash_ray.cluster.session import free_ports

TOKEN = "hf_of-the-tests"


@dataclass
class Hub:
    """A hub that runs.

    Args:
        address: http://host:port.
        files: of each repository by path, as of its last commit.
        messages: of the commits, in order.
    """

    address: str
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serves a hub for the block; who writes needs `TOKEN`."""
    (port,) = free_ports(1)
    hub = Hub(f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(_app(hub), port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join()


def _app(hub: Hub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def authorized(request: Request, call: Any) -> Any:
        if not request.url.path.startswith("/lfs/"):  # these addresses are signed
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return JSONResponse({"error": "Invalid username or password."}, 401)
        return await call(request)

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        asked = await request.json()
        name = f"{asked['organization']}/{asked['name']}"
        address = {"url": f"{hub.address}/{name}"}
        if name in hub.files:
            return JSONResponse({"error": "You already created this model repo", **address}, 409)
        hub.files[name] = {}
        return address

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> Any:
        return {"errors": [], "warnings": []}

    @app.post("/api/models/{owner}/{name}/preupload/main")
    async def preupload(owner: str, name: str, request: Request) -> Any:
        def mode(path: str) -> str:
            return "lfs" if path.endswith(".safetensors") else "regular"

        asked = (await request.json())["files"]
        return {
            "files": [
                {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                for f in asked
            ]
        }

    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(owner: str, name: str, request: Request) -> Any:
        asked = await request.json()
        objects = [
            {**one, "actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/{oid}")
    async def upload(oid: str, request: Request) -> Any:
        hub.uploads[oid] = await request.body()
        return {}

    @app.post("/api/models/{owner}/{name}/commit/main")
    async def commit(owner: str, name: str, request: Request) -> Any:
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        files = hub.files[f"{owner}/{name}"]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.uploads[value["oid"]]
        where = f"{hub.address}/{owner}/{name}/commit/{'0' * 40}"
        return {"commitUrl": where, "commitOid": "0" * 40, "success": True}

    return app
