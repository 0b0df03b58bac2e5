"""Tells a service manager how the server is, by systemd's protocol: datagrams on the socket that it names.

Written here because it is a few lines; the libraries for it bring no more than these.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from quince.environment import ServiceManager

# Seconds between two looks at a server that is not ready yet.
LOOK_EVERY = 0.1
# Without a watchdog: seconds between two words about the state.
TELL_EVERY = 10.0
# Of the watchdog's time: a ping that comes a little late must not count.
PING_AT = 1 / 3


class Notifier:
    """One server's messages, if there is a ``manager`` to hear them: ``start``, then ``stopping``.

    Pings come from the loop that serves the requests, so that they end when it hangs.
    """

    def __init__(self, manager: ServiceManager | None) -> None:
        self._manager = manager
        self._telling: asyncio.Task[None] | None = None

    def start(self, health: Callable[[], tuple[bool, str]]) -> None:
        """READY=1 once ``health`` says that requests can be served; from then on pings and the state in words."""
        if self._manager is not None:
            self._telling = asyncio.create_task(self._tell(self._manager, health), name="notify")

    def stopping(self) -> None:
        if self._telling is not None and self._manager is not None:
            self._telling.cancel()
            _send(self._manager.address, "STOPPING=1\nSTATUS=shutting down")

    async def _tell(self, manager: ServiceManager, health: Callable[[], tuple[bool, str]]) -> None:
        told = ""
        while not (state := health())[0]:
            if state[1] != told:
                told = state[1]
                _send(manager.address, f"STATUS={_line(told)}")
            await asyncio.sleep(LOOK_EVERY)
        _send(manager.address, "READY=1\nSTATUS=ready")
        while True:
            await asyncio.sleep(TELL_EVERY if manager.watchdog is None else manager.watchdog * PING_AT)
            _send(manager.address, f"WATCHDOG=1\nSTATUS={_line(health()[1])}")


def _send(address: str, message: str) -> None:
    """Dropped if nobody hears it: a server does not depend on who watches it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode(), _path(address))


def _path(address: str) -> str:
    """A name in the abstract namespace is written with @ for its first byte, which is zero."""
    return "\0" + address[1:] if address.startswith("@") else address


def _line(text: str) -> str:
    return " ".join(text.split())
