"""A hub of models and data sets on loopback, which huggingface_hub's own client asks: HF_ENDPOINT
is its URL."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """`url`, and the repositories: by owner/name, or datasets/owner/name, the commits of each from
    the first."""

    url: str = ""
    commits: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cuts_off: set[str] = field(default_factory=set)  # repositories whose answers break off

    def push(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Adds a commit that holds just these files; returns its id."""
        history = self.commits.setdefault(repository, [])
        commit = hashlib.sha1(f"{repository} {len(history)}".encode()).hexdigest()
        history.append((commit, dict(files)))
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit's id and files; None if there is none."""
        history = self.commits.get(repository, [])
        if revision == "main" and history:
            return history[-1]
        return next((found for found in history if found[0] == revision), None)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET, as the hub gives them."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        if parts[:1] == ["api"] and parts[1:2] in (["models"], ["datasets"]):
            kind = "" if parts[1] == "models" else "datasets/"
            repository, rest = kind + "/".join(parts[2:4]), parts[4:]
            revision = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
            found = self.find(repository, revision)
            folder = rest[2:] if rest[:1] == ["tree"] else None
            is_flat = "recursive=false" in urlsplit(path).query.lower()
            return self._described(repository, found, folder, not is_flat)
        at = parts.index("resolve") if "resolve" in parts else 0
        if at in (2, 3) and len(parts) > at + 2:
            return self._file("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        return (200, {}, b"a hub") if parts == [""] else (404, {}, b"")

    def _missing(self, repository: str) -> tuple[int, dict[str, str], bytes]:
        code = "RevisionNotFound" if repository in self.commits else "RepoNotFound"
        status = 404 if repository in self.commits else 401  # as the hub hides what is private
        return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"

    def _described(
        self,
        repository: str,
        found: tuple[str, dict[str, bytes]] | None,
        folder: list[str] | None,
        recursive: bool,
    ) -> tuple[int, dict[str, str], bytes]:
        """What a commit holds; with a folder what is below that."""
        if found is None:
            return self._missing(repository)
        commit, files = found
        if folder is not None:
            return self._tree(files, "/".join(folder), recursive)
        id = repository.removeprefix("datasets/")
        about = {"id": id, "sha": commit, "siblings": [{"rfilename": n} for n in files]}
        return 200, {}, json.dumps(about).encode()

    def _tree(
        self, files: Mapping[str, bytes], folder: str, recursive: bool
    ) -> tuple[int, dict[str, str], bytes]:
        """What is in a folder of a commit, folders too; with `recursive` also what is below."""
        entries: dict[str, dict[str, object]] = {}
        for name, data in files.items():
            if not f"/{name}".startswith(f"/{folder}/" if folder else "/"):
                continue
            below = name[len(folder) :].lstrip("/").split("/")
            for depth in range(1, len(below)):
                path = "/".join([*([folder] if folder else []), *below[:depth]])
                if recursive or depth == 1:
                    entries[path] = {"type": "directory", "path": path, "oid": "0" * 40}
            if recursive or len(below) == 1:
                file = {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                entries[name] = file
        if not entries:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        return 200, {}, json.dumps(list(entries.values())).encode()

    def _file(self, repository: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if (found := self.find(repository, revision)) is None:
            return self._missing(repository)
        commit, files = found
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        headers = {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": commit}
        return 200, headers, files[name]


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A hub without models, for the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            status, headers, body = hub.answer(self.path)
            if any(f"/{repository}/" in f"{self.path}/" for repository in hub.cuts_off):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf")
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def hub_environment(hub: Hub, home: Path) -> dict[str, str]:
    """The variables by which huggingface_hub asks this hub, with its cache in a folder."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def seen_elsewhere(
    hub: Hub, home: Path, code: str, names: Sequence[str], variables: Mapping[str, str]
) -> list[Any]:
    """What another process prints of each name, a line of JSON: one that asks this hub.

    Args:
        home: of its client's cache.
        code: a program that takes the names.
    """
    ended = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={**os.environ, **hub_environment(hub, home), **variables},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()[-len(names) :]]
