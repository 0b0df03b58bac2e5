"""API keys: who may use the server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from quince.errors import InvalidApiKey

OPEN_PATHS = frozenset({"/health"})


class ApiKeys:
    """Raises InvalidApiKey, before the body is read, for a request that has none of ``keys``.

    A key comes as ``Authorization: Bearer KEY`` or ``x-api-key: KEY``, in UTF-8; one right key among several headers is
    enough. What is compared are digests, every one of them each time: neither length nor order of the keys shows.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        given = [_digest(key) for key in _given_keys(scope)]
        if not given:
            raise InvalidApiKey("no API key was given: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        matches = [hmac.compare_digest(own, one) for own in self._digests for one in given]
        if not any(matches):
            raise InvalidApiKey("the API key is wrong")


def _given_keys(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
