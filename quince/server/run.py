"""Runs the application on uvicorn: bind, serve, drain, stop."""

from __future__ import annotations

import errno
import logging
import signal
import socket

import uvicorn

from quince import __version__
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.server.app import create_app

logger = logging.getLogger("quince")


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C: no new connections, running requests get ``drain_timeout``, then the engines end.

    A second Ctrl-C ends at once. Raises UsageError for an address that cannot be bound or a model that is not there.
    """
    app = create_app(config)
    with bind(config.host, config.port) as listener:
        host, port = listener.getsockname()[:2]
        logger.info("Quince %s on http://%s:%d (docs: /docs)", __version__, host, port)
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(config.drain_timeout)),
        )
        server = uvicorn.Server(settings)
        # uvicorn raises the signal that stopped it again, once it has restored these.
        for stop_signal in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop_signal, lambda *_: None)
        server.run(sockets=[listener])
    logger.info("stopped")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, with the reason in one sentence if there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {host} is in use: stop what uses it, or choose another --port") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} on {host} is not allowed for this user: choose one above 1023") from None
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listener
