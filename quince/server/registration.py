"""Which servers of this user run: one small file each, in the directory of Quince.

A file is ``servers/PORT-PID.json``. It is written whole (and renamed into its place) by the server itself once it
listens, and removed by it at its end. A server that was killed leaves its file: it counts as long as the process that
it names lives, and a process is known by its pid and by when it started, so that a pid that has gone to another program
means nothing. Whoever reads the directory removes the files of the dead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import psutil

from quince import __version__
from quince.config import ServeConfig
from quince.errors import UsageError

logger = logging.getLogger(__name__)

# Two readings of when a process started differ by rounding only.
SAME_START = 0.05
_SOME_BYTES = 4096
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ServerRecord(msgspec.Struct, frozen=True):
    """A server that listens. ``started`` is ``start_mark``'s, ``since`` a time of the wall clock, both in seconds."""

    pid: Annotated[int, msgspec.Meta(gt=0)]
    started: float
    since: float
    host: str
    port: int
    version: str
    model: str | None
    log: str | None
    drain_timeout: float

    @property
    def url(self) -> str:
        return f"http://{_bracketed(self.host)}:{self.port}"

    @property
    def process(self) -> psutil.Process | None:
        """None when it has ended."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(start_mark(process) - self.started) < SAME_START and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def is_or_is_below(self, pid: int) -> bool:
        """Whether it is this process, or one that it has started: the single-file binary starts Python below itself."""
        process = self.process
        with contextlib.suppress(psutil.Error):
            return process is not None and pid in (process.pid, process.ppid())
        return False


def start_mark(process: psutil.Process) -> float:
    """When it started, as a number that never changes while it lives.

    Linux counts from the boot, and psutil adds the time of the boot by today's clock: setting the clock would change
    the sum.
    """
    return float(process.create_time() - (psutil.boot_time() if sys.platform == "linux" else 0))


def reachable(host: str) -> str:
    """Where a server that listens on ``host`` is found from this machine."""
    return ANY_ADDRESS.get(host, host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def servers_directory(home: Path) -> Path:
    return home / "servers"


def logs_directory(home: Path) -> Path:
    return home / "logs"


# Reading


def running(home: Path, port: int | None = None) -> list[ServerRecord]:
    """The servers that live (all of them, or those on ``port``), by port."""
    found = [record for path in _files(home) if (record := _read(path)) is not None]
    return sorted(
        (record for record in found if port in (None, record.port)), key=lambda record: (record.port, record.pid)
    )


def holder(home: Path, port: int) -> str:
    """Who listens on ``port``, as far as this user may know."""
    for record in running(home, port):
        return f"Quince (pid {record.pid})"
    with contextlib.suppress(psutil.Error):  # macOS tells root only
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"


def _files(home: Path) -> list[Path]:
    try:
        return sorted(servers_directory(home).glob("*.json"))
    except OSError:
        return []


def _read(path: Path) -> ServerRecord | None:
    """The server that a file tells of, if it lives; the file of one that does not is removed."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=ServerRecord)
    except OSError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        record = None
    if record is not None and record.process is not None:
        return record
    with contextlib.suppress(OSError):
        path.unlink()
    return None


# Writing


def check_writable(home: Path) -> None:
    """Raises UsageError if a server could not be registered, or have a log."""
    for directory in (servers_directory(home), logs_directory(home)):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(bytes(_SOME_BYTES))  # a full disk still takes an empty file
        except OSError as error:
            raise UsageError(
                f"cannot write into {directory} ({error.strerror or error}), where servers in the background are kept: "
                "set QUINCE_HOME to another directory, or use `quince serve`"
            ) from None


@contextlib.contextmanager
def registered(config: ServeConfig, address: tuple[str, int], output: Path | None = None) -> Iterator[None]:
    """Tell of this process, which listens on ``address``, until the block ends.

    ``output`` is the file that a server in the background writes to: it becomes the port's log. Raises UsageError if
    such a server cannot be registered, for nobody could find it; one in the foreground goes on with a warning.
    """
    try:
        path = _register(config, address, output)
    except OSError as error:
        problem = f"`quince status` and `quince stop` will not find this server: {error}"
        if output is not None:
            raise UsageError(problem) from None
        logger.warning("%s", problem)
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _register(config: ServeConfig, address: tuple[str, int], output: Path | None) -> Path:
    host, port = address
    own = psutil.Process()
    record = ServerRecord(
        pid=own.pid,
        started=start_mark(own),
        since=time.time(),
        host=host,
        port=port,
        version=__version__,
        model=config.model,
        log=None if output is None else str(_keep_log(config.home, port, output)),
        drain_timeout=config.drain_timeout,
    )
    directory = servers_directory(config.home)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    running(config.home)  # removes what killed servers have left
    path = directory / f"{port}-{own.pid}.json"
    write_private(path, msgspec.json.encode(record))
    return path


def _keep_log(home: Path, port: int, output: Path) -> Path:
    """Give the output its name. The log of the port's last server stays as ``.1``."""
    log = logs_directory(home) / f"server-{port}.log"
    if any(record.log == str(log) for record in running(home, port)):  # it listens on another address
        log = log.with_name(f"server-{port}-{os.getpid()}.log")
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    return output.replace(log)


def write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, readable by its owner."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
