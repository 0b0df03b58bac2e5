"""Servers are told to end, and watched until nothing of them is left."""

from __future__ import annotations

import contextlib
import signal
import time

import psutil

from quince import environment
from quince.errors import UsageError
from quince.server import registration
from quince.server.registration import ServerRecord

LOOK_EVERY = 0.05  # seconds between two looks at a server
# What a server may take, in seconds, to end when it is asked to, besides its --drain-timeout: streams say goodbye,
# engines end.
TO_END = 15.0
# The same with --force, which lets no request finish; and for what is left of a server that was killed.
TO_END_FORCED = 8.0
# Between two signals of --force: a second one counts only after the first was heard.
SIGNAL_EVERY = 0.3


def chosen(port: int | None, every: bool) -> list[ServerRecord]:
    found = registration.running(environment.home(), port)
    if not found and not every:
        raise UsageError("no server is running" + (f" on port {port}" if port is not None else ""))
    if len(found) > 1 and port is None and not every:
        listed = ", ".join(f"{server.port} ({server.model or 'all models'})" for server in found)
        raise UsageError(f"{len(found)} servers are running, on the ports {listed}: name one with --port, or use --all")
    return found


class Ending:
    """The end of one server and of the engine processes that it has."""

    def __init__(self, server: ServerRecord, force: bool) -> None:
        self._server = server
        self._force = force
        self._process = server.process
        self._engines: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            self._engines = self._process.children(recursive=True) if self._process else []
        self.outcome = f"stopped {server.url} (pid {server.pid})"

    @property
    def patience(self) -> str:
        """What it waits for, in words."""
        if self._force:
            return f"stopping {self._server.url}"
        return f"stopping {self._server.url}: running requests get up to {self._server.drain_timeout:g} s"

    def begin(self) -> None:
        """Raises UsageError for a server of another user."""
        self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Until nothing is left of it; what does not end in time is killed."""
        seconds = TO_END_FORCED if self._force else self._server.drain_timeout + TO_END
        if not self._ends_within(seconds):
            self._signal(signal.SIGKILL)
            self.outcome = f"killed {self._server.url} (pid {self._server.pid}), which did not end by itself"
            self._ends_within(TO_END_FORCED)
        _, left = psutil.wait_procs(self._engines, TO_END_FORCED)
        for engine in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()
        registration.running(environment.home())  # removes what it has left

    def _ends_within(self, seconds: float) -> bool:
        deadline, signalled = time.monotonic() + seconds, time.monotonic()
        while self._server.process is not None:
            now = time.monotonic()
            if now > deadline or (self._force and self._is_suspended()):
                return False
            if self._force and now - signalled > SIGNAL_EVERY:
                self._signal(signal.SIGINT)
                signalled = now
            time.sleep(LOOK_EVERY)
        return True

    def _is_suspended(self) -> bool:
        """It hears no signal but one."""
        with contextlib.suppress(psutil.Error):
            return self._process is not None and self._process.status() == psutil.STATUS_STOPPED
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied:
            raise UsageError(f"{self._server.url} (pid {self._server.pid}) is another user's server") from None
