"""One user's commands, and what they leave."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.server_process import QUINCE, environment, is_alive


class Quince:
    """One user's commands: a home of their own, and no process of it outlives the test."""

    def __init__(self, home: Path, program: Sequence[str] = QUINCE) -> None:
        self.home = home
        self.program = program
        self._started: set[int] = set()  # servers, by their processes
        self.temporary = Path(tempfile.mkdtemp(prefix="q-"))
        shared = Path(tempfile.gettempdir()) / "mlx"  # compiled kernels
        shared.mkdir(exist_ok=True)
        (self.temporary / "mlx").symlink_to(shared)
        own = {"QUINCE_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "TMPDIR": str(self.temporary)}
        self.env = environment({**own, "COLUMNS": "300", "NO_COLOR": "1"})

    def begin(self, *args: str, **env: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*self.program, *args], stdout=pipe, stderr=pipe, text=True, env={**self.env, **env})

    @contextlib.contextmanager
    def running(self, *args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
        """Ends with the block at the latest."""
        with self.begin(*args, **env) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.running(*args, **env) as process:
            out, err = process.communicate(timeout=90)
        assert "Traceback" not in err
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def start(self, *args: str, **env: str) -> dict[str, Any]:
        """A server on a free port, as `status` tells of it."""
        result = self.run("start", "--port", "0", *args, **env)
        assert result.returncode == 0, result.stderr
        (found,) = [server for server in self.servers() if server["pid"] not in self._started]
        self._started.add(found["pid"])
        assert f"{found['address']} (pid {found['pid']}; log: {found['log']}" in result.stdout
        return found

    def servers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("status", "--json").stdout)
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process that has been started with this home: servers, and their engines."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if is_alive(process) and process.environ().get("QUINCE_HOME") == str(self.home):
                    found.append(process)
        return found

    def leftovers(self) -> list[str]:
        """Files that only running servers, or commands, have."""
        files = [*self.home.glob("servers/*"), *self.home.glob("servers/.*"), *self.home.glob("logs/starting-*")]
        return [path.name for path in [*files, *self.temporary.iterdir()] if path.name != "mlx"]

    def close(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)
