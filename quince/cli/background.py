"""``quince start`` and ``stop``: servers in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, NoReturn

import psutil
import typer

from quince import config
from quince.cli import models, probe
from quince.cli.output import Output
from quince.cli.serving import takes_serve_options
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.server import registration
from quince.server.registration import ServerRecord

LOOK_EVERY = 0.05  # seconds between two looks at what is waited for
# What a server may take, in seconds, to end when it is asked to, besides its --drain-timeout: streams say goodbye,
# engines end.
TO_END = 15.0
# The same with --force, which lets no request finish; and for what is left of a server that was killed.
TO_END_FORCED = 8.0
# Between two signals of --force: a second one counts only after the first was heard.
SIGNAL_EVERY = 0.3

Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="The server on this port.")]


# start


@takes_serve_options
def start(arguments: Sequence[str], settings: ServeConfig) -> None:
    """Serve in the background, with the options of `quince serve`. Returns when the server is up."""
    registration.check_writable(settings.home)
    if settings.model is not None and settings.auto_download:
        models.pull_missing(settings.model)
    output = Output()
    with _signals() as interrupted, _output_file(settings.home) as log:
        child = _spawn(arguments, log)
        try:
            with output.progress() as progress:
                progress.update(f"starting {settings.model or 'a server'}", 0, 0)
                record = _wait_until_up(child, settings, log, interrupted)
        except BaseException:
            _end(child)
            raise
    where = f"log: {record.log}, `quince stop --port {record.port}` ends it"
    output.done(f"Quince is up on {record.url} (pid {record.pid}; {where})", {})


def _spawn(arguments: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Detached: a session of its own, no input, all output into the log."""
    return subprocess.Popen(
        [*own_command(), "serve", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, config.BACKGROUND_OUTPUT: log.name},
    )


def own_command() -> tuple[str, ...]:
    """What to execute for ``quince``."""
    return (sys.executable, "-m", "quince")


@contextlib.contextmanager
def _output_file(home: Path) -> Iterator[IO[bytes]]:
    """Where the server writes to; once it listens, it gives the file its name. Removed if it does not come to that."""
    with tempfile.NamedTemporaryFile(
        "a+b", dir=registration.logs_directory(home), prefix="starting-", suffix=".log", delete=False
    ) as file:
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file.name)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set when this command shall end: Ctrl-C, SIGTERM or a closed terminal. No exception, so nothing is half done."""
    interrupted = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: interrupted.set()) for number in numbers]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _wait_until_up(
    child: subprocess.Popen[bytes], settings: ServeConfig, log: IO[bytes], interrupted: threading.Event
) -> ServerRecord:
    """Raises UsageError if the server ends, cannot load its model, or nobody wants it any more."""
    while not interrupted.wait(LOOK_EVERY):
        if child.poll() is not None:
            _tell_end(child.returncode, log)
        record = next((one for one in registration.running(settings.home) if one.pid == child.pid), None)
        if record is not None and _is_up(record, settings):
            return record
    raise UsageError("interrupted: the server that was starting has been stopped")


def _is_up(server: ServerRecord, settings: ServeConfig) -> bool:
    """A server without a MODEL is up while models are loaded. Raises UsageError for a model that cannot be loaded."""
    answer = probe.ask(server, "/health", timeout=1)
    if answer is None:
        return False
    for model in answer.body["models"].values():
        if answer.status != 200 and model["last_error"] is not None:
            raise UsageError(f"{model['last_error']} (log: {server.log})")
    return answer.status == 200 or settings.model is None


def _tell_end(code: int, log: IO[bytes]) -> NoReturn:
    """Raises UsageError with the server's last words."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("quince: ") for line in lines if line.startswith("quince: ")]
    if own:
        raise UsageError(own[-1])
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    raise UsageError(f"the server {how}" + (f": {lines[-1]}" if lines else ""))


def _end(child: subprocess.Popen[bytes]) -> None:
    """Of a server that has no requests. Its engines end with it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(TO_END_FORCED)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# stop


def stop(
    port: Port = None,
    every: Annotated[bool, typer.Option("--all", help="All servers.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not let running requests finish.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no confirmation.")] = False,
) -> None:
    """Stop a server: it takes no new requests, finishes those that run, and ends."""
    if every and port is not None:
        raise typer.BadParameter("--all and --port exclude each other")
    chosen = _chosen(port, every)
    output = Output(quiet=quiet)
    ending = [_Ending(server) for server in chosen]
    try:
        with output.progress() as progress:
            for one in ending:
                one.begin()
            for one in ending:
                progress.update(one.patience(force), 0, 0)
                one.wait(force)
    except KeyboardInterrupt:
        raise UsageError("interrupted: what was told to stop still ends (at once by `quince stop --force`)") from None
    for one in ending:
        output.done(one.outcome, {})
    if not ending:
        output.done("no server is running", {})


def _chosen(port: int | None, every: bool) -> list[ServerRecord]:
    found = registration.running(config.home(), port)
    if not found and not every:
        raise UsageError("no server is running" + (f" on port {port}" if port is not None else ""))
    if len(found) > 1 and port is None and not every:
        listed = ", ".join(f"{server.port} ({server.model or 'all models'})" for server in found)
        raise UsageError(f"{len(found)} servers are running, on the ports {listed}: name one with --port, or use --all")
    return found


class _Ending:
    """The end of one server and of the engine processes that it has."""

    def __init__(self, server: ServerRecord) -> None:
        self._server = server
        self._process = server.process
        self._engines: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            self._engines = self._process.children(recursive=True) if self._process else []
        self.outcome = f"stopped {server.url} (pid {server.pid})"

    def patience(self, force: bool) -> str:
        if force:
            return f"stopping {self._server.url}"
        return f"stopping {self._server.url}: running requests get up to {self._server.drain_timeout:g} s"

    def begin(self) -> None:
        """Raises UsageError for a server of another user."""
        self._signal(signal.SIGTERM)

    def wait(self, force: bool) -> None:
        """Until nothing is left of it; what does not end in time is killed."""
        seconds = TO_END_FORCED if force else self._server.drain_timeout + TO_END
        if not self._ends_within(seconds, force):
            self._signal(signal.SIGKILL)
            self.outcome = f"killed {self._server.url} (pid {self._server.pid}), which did not end by itself"
            self._ends_within(TO_END_FORCED, force=False)
        _, left = psutil.wait_procs(self._engines, TO_END_FORCED)
        for engine in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()
        registration.running(config.home())  # removes what it has left

    def _ends_within(self, seconds: float, force: bool) -> bool:
        deadline, signalled = time.monotonic() + seconds, time.monotonic()
        while self._server.process is not None:
            now = time.monotonic()
            if now > deadline or (force and self._is_suspended()):
                return False
            if force and now - signalled > SIGNAL_EVERY:
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
