"""Server-sent events: one answer written as it comes, kept alive, and ended when its reader leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quince.errors import QuinceError
from quince.metrics import current_request

logger = logging.getLogger(__name__)

KEEPALIVE = b": keepalive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """Writes ``chunks``, which are complete events.

    Headers go out with the first chunk, so an error before it is an ordinary HTTP error; after ``keepalive_interval``
    seconds of silence they go out with a comment, and comments fill every silence from then on. An error after the
    headers is one more event, made by ``encode_error``, and the end. When the client leaves, the generator is closed.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        encode_error: Callable[[QuinceError], bytes],
        headers: Mapping[str, str],
        keepalive_interval: float,
    ) -> None:
        self._chunks = chunks
        self._encode_error = encode_error
        self._interval = keepalive_interval
        self._request = current_request()
        self._request.streamed = True
        self._lock = asyncio.Lock()
        self._started = False
        self._sent_at = asyncio.get_running_loop().time()
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writer = asyncio.create_task(self._write(send))
        helpers = [asyncio.create_task(wait_disconnect(receive)), asyncio.create_task(self._keep_alive(send))]
        try:
            await asyncio.wait([writer, *helpers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = writer.done()
            self._request.client_left = not finished
            for task in (writer, *helpers):
                task.cancel()
            await asyncio.gather(writer, *helpers, return_exceptions=True)
        if finished and not writer.cancelled():
            writer.result()

    async def _write(self, send: Send) -> None:
        try:
            async with contextlib.aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    await self._send(send, chunk)
        except Exception as error:  # the boundary: a failure behind the headers is an event
            if not self._started:
                raise
            if not isinstance(error, QuinceError):
                logger.error("a stream failed", exc_info=error)
                error = QuinceError("The server had an unexpected error; its log says more.")
            self._request.fail(error)
            await self._send(send, event(self._encode_error(error)))
        async with self._lock:
            await send({"type": "http.response.body", "body": b""})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            silent = loop.time() - self._sent_at
            if silent >= self._interval:
                await self._send(send, KEEPALIVE)
                silent = 0.0
            await asyncio.sleep(self._interval - silent)

    async def _send(self, send: Send, data: bytes) -> None:
        async with self._lock:
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._sent_at = asyncio.get_running_loop().time()


async def wait_disconnect(receive: Receive) -> None:
    """Return when the client is gone. The request's body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
