"""A server process to measure."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from quince.errors import UsageError

STARTING = 300.0  # seconds until a server is healthy
STOP_TIMEOUT = 15.0


class Server:
    """A server process, started on a free port and healthy when the constructor returns. Logs go to ``log``."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, *, health: str = "/health", timeout: float = STARTING
    ) -> None:
        """Raises UsageError if it is not healthy ``timeout`` seconds later."""
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as output:
            environment = {name: value for name, value in os.environ.items() if name != "QUINCE_API_KEY"}
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        self.pid = self._process.pid
        try:
            self.started_in = self._wait_healthy(health, time.monotonic(), timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_healthy(self, path: str, since: float, timeout: float) -> float:
        while time.monotonic() - since < timeout:
            if self._process.poll() is not None:
                break
            if _answers(self.url + path):
                return time.monotonic() - since
            time.sleep(0.01)
        raise UsageError(f"the server to measure did not become healthy; its log ends:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        wait_or_kill(self._process)


def _answers(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
