"""A Hugging Face hub of our own on a free port: enough of its API for the real huggingface_hub client, and its faults.

Large files are redirected to a "CDN" under another host name (localhost), as the real hub does: a token that is sent
there is a leak.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_good"
LARGE = 4096  # bytes; larger files are in "LFS"
CHUNK = 8192


@dataclass
class Repo:
    """What one repository holds and how it behaves."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    # name -> how many of its bytes each of the next answers sends before the connection is cut
    cuts: dict[str, list[int]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    bytes_per_second: float | None = None
    on_chunk: Callable[[str, int], None] = lambda name, sent: None

    @property
    def revision(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


@dataclass
class Sent:
    """One answer to a request for a file: where it started and how many bytes went out.

    Bytes are counted before they go, so that a client that has its file finds them counted.
    """

    repo_id: str
    name: str
    start: int
    sent: int = 0
    ended: bool = False


class HubServer:
    """A context manager; ``endpoint`` is for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.sent: list[Sent] = []
        self.requests: list[str] = []
        self.leaked_tokens: list[str] = []
        self.status: int | None = None  # what every request is answered with, if set
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repo_id: str, directory: Path, **behaviour: Any) -> Repo:
        """Publish a directory's files."""
        files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        repo = self.repos[repo_id] = Repo(files, **behaviour)
        return repo

    def bytes_sent(self, name: str) -> int:
        return sum(one.sent for one in self.sent if one.name == name)


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path).strip("/")
        hub.requests.append(path)
        try:
            if hub.status is not None:
                self._error(hub.status, "", "out of order")
            elif path.startswith("api/models/"):
                self._model_info(path.removeprefix("api/models/"))
            elif path.startswith("cdn/"):
                if "authorization" in self.headers:
                    hub.leaked_tokens.append(self.headers["authorization"])
                repo_id, _, name = path.removeprefix("cdn/").partition("/-/")
                self._file(repo_id, name)
            else:
                repo_id, _, rest = path.partition("/resolve/")
                self._resolve(repo_id, rest.partition("/")[2])
        except (TimeoutError, ConnectionError):
            self.close_connection = True

    # Who may see what

    def _repo(self, repo_id: str) -> Repo | None:
        """None after an error has been answered."""
        authorization = self.headers.get("authorization", "")
        if authorization and authorization != f"Bearer {GOOD_TOKEN}":
            return self._error(401, "", "Invalid credentials in Authorization header")
        repo = self.server_hub.repos.get(repo_id)
        if repo is None or (repo.private and not authorization):
            return self._error(404 if authorization else 401, "RepoNotFound", "Repository not found")
        return repo

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # What there is

    def _model_info(self, rest: str) -> None:
        repo_id, _, revision = rest.partition("/revision/")
        repo = self._repo(repo_id)
        if repo is None:
            return
        if revision not in ("", "main", repo.revision):
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return
        siblings = [_sibling(name, content) for name, content in repo.files.items()]
        body = json.dumps(
            {"id": repo_id, "modelId": repo_id, "sha": repo.revision, "tags": [], "siblings": siblings}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repo_id: str, name: str) -> None:
        repo = self._repo(repo_id)
        if repo is None:
            return
        if repo.gated:
            self._error(403, "GatedRepo", f"Access to model {repo_id} is restricted")
        elif name not in repo.files:
            self._error(404, "EntryNotFound", "Entry not found")
        elif len(repo.files[name]) > LARGE:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server_hub.port}/cdn/{repo_id}/-/{name}")
            self.send_header("X-Repo-Commit", repo.revision)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file(repo_id, name)

    def _file(self, repo_id: str, name: str) -> None:
        repo = self.server_hub.repos[repo_id]
        content = repo.files[name]
        if name in repo.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, end = self._range(len(content))
        if start >= len(content) > 0:
            self._error(416, "", "Range not satisfiable")
            return
        self.send_response(206 if "range" in self.headers else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if self.command != "HEAD":
            self._send(repo_id, repo, name, content[:end], start)

    def _range(self, size: int) -> tuple[int, int]:
        wanted = self.headers.get("range", "bytes=0-").removeprefix("bytes=")
        start, _, last = wanted.partition("-")
        return int(start), min(int(last) + 1, size) if last else size

    def _send(self, repo_id: str, repo: Repo, name: str, content: bytes, start: int) -> None:
        cuts = repo.cuts.get(name)
        limit = cuts.pop(0) if cuts else len(content)
        answer = Sent(repo_id, name, start)
        self.server_hub.sent.append(answer)
        position = start
        try:
            while position < min(len(content), start + limit):
                chunk = content[position : min(position + CHUNK, start + limit)]
                position += len(chunk)
                answer.sent += len(chunk)
                self.wfile.write(chunk)
                repo.on_chunk(name, position)
                if repo.bytes_per_second:
                    time.sleep(len(chunk) / repo.bytes_per_second)
        finally:
            answer.ended = True
        if position < len(content):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
    sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if len(content) > LARGE:
        sha256 = hashlib.sha256(content).hexdigest()
        sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        sibling["blobId"] = "0" * 40  # git holds the pointer
    return sibling
