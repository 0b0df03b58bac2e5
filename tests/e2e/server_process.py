"""A real ``quince serve`` process: started on a free port, watched, and always cleaned up."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx2
import psutil

T = TypeVar("T")

START_TIMEOUT = 60.0
ADDRESS = re.compile(r"Quince \S+ on (http://\S+:\d+)")
QUINCE = (sys.executable, "-m", "quince")
SERVE = (*QUINCE, "serve", "--port", "0")


def wait_for(condition: Callable[[], T], *, within: float, what: str) -> T:
    """Poll until ``condition`` is true; returns its value. Fails the test with ``what`` after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(0.02)
    return value


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the settings that the developer may have made for Quince.

    What a process has compiled is kept for the next one: there are hundreds.
    """
    others = ("QUINCE_", "PYTHONDONTWRITEBYTECODE")
    own = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {**own, "PYTHONUNBUFFERED": "1", **(extra or {})}


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ServerProcess:
    """A context manager around one server. ``stop`` ends it as a user would; leaving the block kills what is left."""

    def __init__(
        self,
        log: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = SERVE,
        cwd: Path | None = None,
    ) -> None:
        self._log = log
        self._args = args
        self._program = program
        self._cwd = cwd
        # Its own, and short: Unix sockets live in it, and their paths are limited to about a hundred characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="q-"))
        self._share_compiled_kernels()
        own = {name: str(self.temporary / name.lower()) for name in ("QUINCE_HOME", "HF_HUB_CACHE")}
        self._env = environment({"TMPDIR": str(self.temporary), **own, **(env or {})})
        self._process: subprocess.Popen[bytes] | None = None
        self._engines: dict[int, psutil.Process] = {}
        self._base_url = ""
        self.http = httpx2.Client(trust_env=False, timeout=60)

    def _share_compiled_kernels(self) -> None:
        """MLX's CPU build compiles into the temporary directory: once is enough for all servers."""
        shared = Path(tempfile.gettempdir()) / "mlx"
        shared.mkdir(exist_ok=True)
        (self.temporary / shared.name).symlink_to(shared)

    def leftovers(self) -> list[Path]:
        """What the server's processes have in their temporary directory now, besides their home."""
        return [path for path in self.temporary.iterdir() if path.name not in ("mlx", "quince_home")]

    def __enter__(self) -> ServerProcess:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._program, *self._args], stdout=log, stderr=log, env=self._env, cwd=self._cwd
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self.engines()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for engine in self._engines.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)
        if error is not None:
            print(f"--- log of the server ({' '.join(self._args)})\n{self.logs()}", file=sys.stderr)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "use the server as a context manager"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def base_url(self) -> str:
        """Where it listens, read from its log."""
        if not self._base_url:
            found = wait_for(self._find_address, within=START_TIMEOUT, what="the server names its address")
            self._base_url = found[1]
        return self._base_url

    def _find_address(self) -> re.Match[str] | None:
        found = ADDRESS.search(self.logs())
        assert found or self.process.poll() is None, f"the server ended: {self.logs()}"
        return found

    def logs(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, within: float = START_TIMEOUT) -> ServerProcess:
        def healthy() -> bool:
            assert self.process.poll() is None, f"the server ended: {self.logs()}"
            return self.health().status_code == 200

        wait_for(healthy, within=within, what="/health says 200")
        return self

    # What the server says

    def get(self, path: str) -> httpx2.Response:
        return self.http.get(self.base_url + path)

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.http.post(self.base_url + path, json=body)

    def health(self) -> httpx2.Response:
        """/health; when the server does not listen (yet, or any more), a 503 of our own."""
        try:
            return self.get("/health")
        except httpx2.TransportError:
            return httpx2.Response(503, json={"status": "unavailable", "reason": "not listening"})

    def stats(self) -> dict[str, Any]:
        """/stats, with the only model's figures beside the totals."""
        body: dict[str, Any] = self.get("/stats").json()
        (model,) = body.pop("models").values()
        return {**model, **body}

    # Its processes

    def engines(self) -> list[psutil.Process]:
        """The engine processes that live now. All ever seen are remembered for the clean-up."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            children = []
        # A child that has not exec'd yet looks like its parent.
        self._engines.update({child.pid: child for child in children})
        return [engine for engine in self._engines.values() if is_alive(engine)]

    def engine(self) -> psutil.Process:
        """The one engine process."""
        (engine,) = self.engines()
        return engine

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, within: float = 30) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(within)
