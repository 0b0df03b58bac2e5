"""Runs the application on uvicorn: bind, load, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from pathlib import Path

import uvicorn
import uvloop

from quince import __version__, logs
from quince.config import ServeConfig
from quince.environment import background_output, service_manager
from quince.errors import UsageError
from quince.models.manager import ModelManager
from quince.server import registration
from quince.server.app import create_app
from quince.server.notify import Notifier

logger = logging.getLogger("quince")

# How long streams get to write their last event once their requests have been ended.
GOODBYE = 2.0


def serve(config: ServeConfig, *, private: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C: no new connections, running requests get ``drain_timeout``, then the engines end.

    The end of the terminal (SIGHUP) counts as SIGTERM; a second Ctrl-C does not wait for requests. Raises UsageError
    for an address that cannot be bound or a model that is not there, ModelLoadError for one without a usable tokenizer.
    ``private``: its parent alone knows of it.
    """
    _end_with_terminal()
    logs.setup(
        config.log_level,
        format=config.log_format,
        file=None if config.log_file is None else config.log_file.expanduser(),
        file_size=config.log_file_size,
        file_count=config.log_file_count,
    )
    manager = ModelManager(config)
    with (
        bind(config.host, config.port, config.home) as listener,
        contextlib.nullcontext()
        if private
        else registration.registered(config, listener.getsockname()[:2], background_output()),
        # Ctrl-C or SIGTERM before uvicorn has taken over the signals
        contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(config, manager, listener))
    logger.info("stopped")


def _end_with_terminal() -> None:
    """Without this, a closed terminal would cut every answer off. Under nohup, which ignores SIGHUP, it stays so."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


async def _serve(config: ServeConfig, manager: ModelManager, listener: socket.socket) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    host, port = listener.getsockname()[:2]
    logger.info("Quince %s on http://%s:%d (docs: /docs)", __version__, host, port)
    settings = uvicorn.Config(
        create_app(config, manager),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=int(config.drain_timeout + GOODBYE) + 1,
    )
    try:
        await manager.start()
        loop.remove_signal_handler(signal.SIGTERM)
        # uvicorn raises the signal that stopped it again, once it has restored these.
        for stop_signal in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop_signal, lambda *_: None)
        await _Server(settings, manager, config.drain_timeout).serve(sockets=[listener])
    finally:
        await manager.stop()


class _Server(uvicorn.Server):
    """uvicorn's server, ending open streams with an error event instead of a cut connection."""

    def __init__(self, config: uvicorn.Config, manager: ModelManager, drain_timeout: float) -> None:
        super().__init__(config)
        self._manager = manager
        self._drain_timeout = drain_timeout
        self._drained = asyncio.Event()
        self._notifier = Notifier(service_manager())

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._notifier.start(self._manager.health)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._notifier.stopping()
        stopping = asyncio.create_task(self._stop_manager())
        try:
            await super().shutdown(sockets)  # returns when all requests are done, or at a second Ctrl-C
        finally:
            self._drained.set()
        await stopping  # never cancelled: engines end by themselves, in a time of their own
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=GOODBYE)

    async def _stop_manager(self) -> None:
        """Once the requests are done or their time is over; the first thing it does is to end those that are left."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), self._drain_timeout)
        await self._manager.stop()


def bind(host: str, port: int, home: Path) -> socket.socket:
    """A listening socket, with the reason in one sentence if there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)  # of two servers that bind at once, one fails here
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            holder = registration.holder(home, port)
            raise UsageError(
                f"port {port} on {host} is in use by {holder}: stop what uses it, or choose another --port"
            ) from None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} on {host} is not allowed for this user: choose one above 1023") from None
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listener
