from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from quince.doctor import network
from quince.doctor.finding import Status
from tests.chat.fake_server import fake_server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_free_port() -> None:
    assert network.port("127.0.0.1", free_port()).text == "free"


def test_a_port_of_quince() -> None:
    with fake_server() as server:
        finding = network.port("127.0.0.1", server.server_address[1])
    assert (finding.status, finding.text) == (Status.OK, "Quince listens there, and is well")


def test_a_port_of_somebody_else() -> None:
    """This process: it says so, where the system tells who listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        finding = network.port("127.0.0.1", listener.getsockname()[1])
    assert finding.status is Status.PROBLEM
    assert f"(pid {os.getpid()}) listens there" in finding.text or finding.text == "another program listens there"


def test_an_address_of_nobody() -> None:
    finding = network.port("no.such.host.invalid", 8000)
    assert (finding.status, "no.such.host.invalid" in finding.text) == (Status.PROBLEM, True)


@contextmanager
def hub(status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "offset", "expected", "words"),
    [
        (200, 0, Status.OK, "answers"),
        (404, 0, Status.OK, "answers"),
        (503, 0, Status.WARNING, "answers 503"),
        (200, 3600, Status.WARNING, "differs from the hub's by 3"),
    ],
)
def test_hub(status: int, offset: float, expected: Status, words: str) -> None:
    with hub(status) as url:
        finding = network.hub(url, time.time() + offset)
    assert (finding.status, words in finding.text) == (expected, True), finding


def test_a_hub_that_cannot_be_reached() -> None:
    assert network.hub(f"http://127.0.0.1:{free_port()}", time.time()).status is Status.PROBLEM
    assert network.hub("http://[", time.time()).status is Status.PROBLEM
