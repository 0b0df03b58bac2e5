"""An HTTP server that answers chats as it is told, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}},
}


def says(text: str, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text, **fields}}]}


class FakeServer(ThreadingHTTPServer):
    """``script``: the chunks of every answer; None at its end: go on with the last one until the client leaves."""

    daemon_threads = True

    def __init__(self, script: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusal: tuple[int, bytes] | None = None
        self.left = threading.Event()
        self.any_name = False  # whether every name is its model's
        # What /health says, one after the other; the last one from then on.
        self.healths: list[dict[str, Any]] = [{"status": "ok", "reason": "ready", "models": {}}]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        if self.path == "/health":
            healths = self.server.healths
            health = healths.pop(0) if len(healths) > 1 else healths[0]
            self._json(200 if health["status"] == "ok" else 503, health)
        elif self.path == "/v1/models":
            self._json(200, {"data": [{"id": "reader", "type": "embedding"}, {"id": "talker", "type": "llm"}]})
        elif self.path == "/v1/models/talker" or (self.server.any_name and self.path.startswith("/v1/models/")):
            self._json(200, {"id": "talker"})
        else:
            self._json(404, {"error": {"message": "no such model"}})

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.keys.append(self.headers["Authorization"])
        if self.server.refusal is not None:
            status, body = self.server.refusal
            self._send(status, body)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream()
        except OSError:
            self.server.left.set()

    def _stream(self) -> None:
        self.wfile.write(b": keepalive\n\n")
        last: Any = None
        for chunk in self.server.script:
            while chunk is None:
                self._event(last)
                time.sleep(0.01)
            self._event(chunk)
            last = chunk

    def _event(self, chunk: Any) -> None:
        data = chunk if isinstance(chunk, str) else json.dumps(chunk)
        self.wfile.write(f"data: {data}\n\n".encode())

    def _json(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fake_server(*script: Any) -> Iterator[FakeServer]:
    with FakeServer(list(script)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
