"""A server is started in the background, and watched until it is up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

from quince import children, environment
from quince.cli import probe, serving
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.server import registration
from quince.server.registration import ServerRecord

LOOK_EVERY = 0.05  # seconds between two looks at the server
PATIENCE = 8.0  # seconds that a server without requests gets to end, before it is killed


def start(arguments: Sequence[str], settings: ServeConfig) -> ServerRecord:
    """The server that `quince serve` with these arguments makes, once it is up. Without MODEL it is up before its
    models are loaded.

    Raises UsageError, and leaves no process, if it cannot be started or this command is interrupted.
    """
    with _signals() as interrupted, _output_file(settings.home) as log:
        child = _spawn(arguments, log)
        try:
            return _wait_until_up(child, settings, log, interrupted)
        except BaseException:
            _end(child)
            raise


def _spawn(arguments: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Detached: a session of its own, no input, all output into the log."""
    public, keys = serving.without_keys(arguments)
    return subprocess.Popen(
        [*children.command("quince"), "serve", *public],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=children.independent({**os.environ, **keys, environment.BACKGROUND_OUTPUT: log.name}),
    )


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
        record = next((one for one in registration.running(settings.home) if one.is_or_is_below(child.pid)), None)
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
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
