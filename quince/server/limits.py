"""The bounds on request bodies: of each, and of all that are in memory."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quince.errors import BodyTooLarge, QueueFull

# How much of a refused body is still read, so that a client that only sends sees the answer: clients that wait for
# nothing while they upload would otherwise see a broken connection.
MAX_DISCARDED = 256 * 2**20
DISCARD_TIMEOUT = 5.0  # seconds

# As many bodies of the largest size may be in memory, with requests that are being read or answered.
MAX_LARGEST_BODIES = 32


class BodyLimit:
    """Bounds what requests hold before anything has looked at them.

    Raises BodyTooLarge for a body of more than ``max_size`` bytes, by its announced length or by counting; QueueFull
    for one that would be too much together with those of all requests that are not finished.
    """

    def __init__(self, app: ASGIApp, max_size: int) -> None:
        self._app = app
        self._max_size = max_size
        self._max_held = max_size * MAX_LARGEST_BODIES
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_size:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISCARD_TIMEOUT):
                    await _discard(receive)
            raise self._too_large()
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            size = len(message.get("body", b""))
            read += size
            self._held += size
            if read > self._max_size:
                raise self._too_large()
            if self._held > self._max_held:
                raise QueueFull("the requests that are open are too large to take more; try again later", retry_after=1)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= read

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request body is larger than {self._max_size} bytes")


async def _discard(receive: Receive) -> None:
    discarded = 0
    while discarded < MAX_DISCARDED:
        message = await receive()
        discarded += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            break
