"""What every request and answer goes through, whatever its route."""

from __future__ import annotations

import logging
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quince import logs
from quince.errors import QuinceError
from quince.metrics import Metrics, RequestKind, RequestRecord, recording
from quince.server.dependencies import REQUEST_ID_HEADER, new_id
from quince.server.turns import Turns

logger = logging.getLogger("quince.requests")

# What the routes that compute answers are for; the others are logged and not counted.
KINDS = {
    "/v1/chat/completions": RequestKind.TEXT,
    "/v1/responses": RequestKind.TEXT,
    "/v1/messages": RequestKind.TEXT,
    "/api/chat": RequestKind.TEXT,
    "/api/generate": RequestKind.TEXT,
    "/v1/completions": RequestKind.COMPLETION,
    "/v1/embeddings": RequestKind.EMBEDDING,
    "/api/embed": RequestKind.EMBEDDING,
    "/api/embeddings": RequestKind.EMBEDDING,
    "/v1/rerank": RequestKind.RERANK,
    "/v2/rerank": RequestKind.RERANK,
    "/rerank": RequestKind.RERANK,
}
# Asked for by machines, every few seconds: logged with --log-level debug, unless they fail.
PROBES = frozenset({"/health", "/metrics", "/stats", "/v1/queue/stats", "/v1/mlx/status"})
NOT_YET = ("/health", 503)
MAX_PATH = 256  # characters that are logged


class Requests:
    """Gives every request a record and every answer an id; logs and counts the request when it has ended. Those that
    compute answers begin in turn.

    The id is that of what the route generates, else a fresh one. An id that the client sends is not used: /v1/cancel
    ends requests by id, so ids are unique and nobody's to choose.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._turns = Turns()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind = KINDS.get(scope["path"]) if scope["method"] == "POST" else None
        request = RequestRecord(new_id("req"), kind, self._metrics)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                MutableHeaders(scope=message).setdefault(REQUEST_ID_HEADER, request.request_id)
            await send(message)

        with recording(request):
            try:
                if kind is not None:
                    await self._turns.take()
                await self._app(scope, receive, send_with_id)
            except Exception:
                request.fail(QuinceError("the answer was cut off"))
                raise
            finally:
                request.end()
                _log(request, scope)


def _log(request: RequestRecord, scope: Scope) -> None:
    """Never with what the client wrote: no texts, no query, which may hold keys."""
    # "Not yet" is what /health is asked for; what keeps a server from getting ready is logged where it happens.
    probe = scope["path"] in PROBES and (request.status == 200 or (scope["path"], request.status) == NOT_YET)
    failed = request.error is not None and request.error.status >= 500 and not request.client_left
    level = logging.DEBUG if probe else logging.WARNING if failed else logging.INFO
    client = scope.get("client")
    logs.event(
        logger,
        level,
        f"{scope['method']} {quote(scope['path'][:MAX_PATH], errors='replace')}",
        status=request.status,
        duration=round(request.duration, 6),
        client=client[0] if client else None,
        **request.summary(),
    )


class HeadAsGet:
    """HEAD is answered wherever GET is; the HTTP server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
