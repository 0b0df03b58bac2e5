"""A server that is started again whenever a file of the program changes: for those who change it.

The server is a child: ``python -m quince.cli.reloading`` with the arguments of ``mlx-server``.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from quince import children
from quince.errors import UsageError

PROGRAM = Path(__file__).parents[1]
LOOK_EVERY = 0.5  # seconds between two looks at the files
PATIENCE = 8.0  # seconds that a server whose parent is gone may take to end


def main() -> None:
    """The child."""
    from quince.cli import mlx_server

    children.end_with_parent(PATIENCE)
    mlx_server.main()


def run(arguments: Sequence[str]) -> None:
    """Returns when the server has ended as it was told to. One that breaks off is started again after the next change.

    Raises UsageError if even the first one does not come to run.
    """
    if children.is_frozen():
        raise UsageError("--reload: the single-file binary has no files that change")
    changed = False
    while True:
        stamps = _stamps()
        with _server(arguments) as child:
            while child.poll() is None and _stamps() == stamps:
                time.sleep(LOOK_EVERY)
            code = child.poll()
        if code is not None and (code <= 0 or not changed):
            if code > 0:
                raise UsageError("--reload: the server has ended; what it says is above")
            return
        while code is not None and _stamps() == stamps:
            time.sleep(LOOK_EVERY)
        changed = True
        typer.echo("mlx-server: the program has changed: starting again", err=True)


@contextlib.contextmanager
def _server(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Told to end, as a user would, when the block does. It gets what this process is told: the terminal tells it
    nothing, and it ends with this process, however that ends."""
    command = children.command("quince.cli.reloading", *arguments)
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: child.send_signal(number)) for number in numbers]
    try:
        yield child
    finally:
        child.terminate()
        child.wait()
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stamps() -> dict[Path, int]:
    """When each source file was changed last."""
    found: dict[Path, int] = {}
    for path in PROGRAM.rglob("*.py"):
        with contextlib.suppress(OSError):
            found[path] = path.stat().st_mtime_ns
    return found


if __name__ == "__main__":
    main()
