"""A server for one chat or measurement: a child process on a private port, which ends with this process in any case."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

import msgspec

from quince import children
from quince.bench.server import free_port
from quince.chat.client import ChatClient
from quince.errors import RemoteError

COMMAND = children.command("quince.cli.private_server")
STOP_TIMEOUT = 10.0  # seconds


class PrivateServer(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is told. The key is known to nobody else: other users of the machine cannot use the server."""

    port: int
    key: str
    model: str | None = None
    preload: str | None = None
    max_running_requests: int | None = None


@contextlib.contextmanager
def own_server(
    model: str | None, *, directory: bool = False, command: tuple[str, ...] = COMMAND
) -> Iterator[ChatClient]:
    """A server that is ready for ``model``, a name or a ``directory`` (None: for whichever, or the only one that the
    settings name). Raises as ``running``.
    """
    spec = PrivateServer(
        port=free_port(),
        key=secrets.token_urlsafe(24),
        model=model if directory else None,
        preload=None if directory else model,
    )
    with running(spec, command) as client:
        yield client


@contextlib.contextmanager
def running(spec: PrivateServer, command: tuple[str, ...] = COMMAND) -> Iterator[ChatClient]:
    """The server, once it is ready. Raises RemoteError with its reason if it does not come to that."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends an answer, not the server
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended: its log says why
                process.stdin.write(msgspec.json.encode(spec) + b"\n")
                process.stdin.flush()
            with ChatClient(f"http://127.0.0.1:{spec.port}", spec.key) as client:
                if not client.wait_ready(alive=lambda: process.poll() is None):
                    raise RemoteError(_last_words(log))
                yield client
        finally:
            _end(process)


def _last_words(log: IO[bytes]) -> str:
    log.seek(0)
    last = log.read()[-4000:].decode(errors="replace").strip().splitlines()
    return last[-1].removeprefix("quince: ") if last else "the server for this chat ended without a word"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close its standard input, which ends it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT)
    except BaseException as error:  # also a second Ctrl-C
        process.kill()
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
