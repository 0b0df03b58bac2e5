"""The bound on request bodies."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quince.errors import BodyTooLarge
from quince.server.protocol.openai import encode_error

# How much of a refused body is still read, so that a client that only sends sees the answer: clients that wait for
# nothing while they upload would otherwise see a broken connection.
MAX_DISCARDED = 256 * 2**20


class BodyLimit:
    """Answers 413 to a body larger than ``max_size`` bytes, by its announced length or by counting."""

    def __init__(self, app: ASGIApp, max_size: int) -> None:
        self._app = app
        self._max_size = max_size
        self._message = f"the request body is larger than {max_size} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_size:
            await self._refuse(receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_size:
                raise HTTPException(413, self._message)
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, receive: Receive, send: Send) -> None:
        discarded = 0
        while discarded < MAX_DISCARDED:
            message = await receive()
            discarded += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        body = encode_error(BodyTooLarge(self._message))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": BodyTooLarge.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
