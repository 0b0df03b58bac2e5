"""Where errors become HTTP answers: one place for all routes, in the shape that each API's clients read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quince.errors import InvalidApiKey, InvalidRequest, QuinceError
from quince.metrics import current_request, current_request_id
from quince.server.protocol import ollama, openai

logger = logging.getLogger(__name__)

# How errors are written, by the beginning of the path. The first that fits: narrower ones go before "".
DIALECTS: tuple[tuple[str, Callable[[QuinceError], bytes]], ...] = (
    ("/api/", ollama.encode_error),
    ("", openai.encode_error),
)


class ErrorAnswers:
    """Answers what the application raises: a QuinceError as it is, anything else as a 500 that is logged.

    What is raised after the answer has begun goes on to the HTTP server, which logs it and cuts the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as error:  # the boundary of a request
            if started:
                raise
            await _answer(scope, _known(error))(scope, receive, send)


def _known(error: Exception) -> QuinceError:
    if isinstance(error, QuinceError):
        return error
    logger.error("%s: unexpected error", current_request_id(), exc_info=error)
    return QuinceError("The server had an unexpected error; its log says more.")


async def on_validation_error(request: Request, error: Exception) -> Response:
    """pydantic's refusal: what is wrong, by the name that the client used."""
    assert isinstance(error, RequestValidationError)
    return _answer(request.scope, _refusal(request, error))


def _refusal(request: Request, error: RequestValidationError) -> InvalidRequest:
    if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
        return InvalidRequest("the body must be JSON, sent with 'Content-Type: application/json'")
    # Of a union's several complaints, the deepest is about the branch that was meant.
    deepest: dict[str, Any] = dict(max(error.errors(), key=lambda one: len(one["loc"])))
    if deepest["type"] == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {deepest['ctx']['error']}")
    name = _field_name(deepest, error.body)
    message = deepest["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{name or 'body'}: {message}", param=name)


def _field_name(error: dict[str, Any], body: Any) -> str | None:
    """The path of a validation error without pydantic's names of union branches, which are nowhere in the body."""
    path: list[str] = []
    parts = [part for part in error["loc"] if part != "body"]
    for part in parts:
        in_list = isinstance(body, list) and isinstance(part, int) and part < len(body)
        if in_list or (isinstance(body, dict) and part in body):
            body = body[part]
        elif error["type"] != "missing" or part is not parts[-1]:
            continue
        path.append(str(part))
    return ".".join(path) or None


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, QuinceError):  # raised while FastAPI read the body: a 400 to it
        raise error.__cause__
    message = f"{error.detail}: {request.method} {request.url.path}"
    return _answer(request.scope, InvalidRequest(message), error.status_code, dict(error.headers or {}))


def _answer(
    scope: Scope, error: QuinceError, status: int | None = None, headers: dict[str, str] | None = None
) -> Response:
    """In the dialect of the request's path; ``status`` if it is not the error's own."""
    current_request().fail(error)
    encode = next(encoder for prefix, encoder in DIALECTS if scope["path"].startswith(prefix))
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = f"{error.retry_after:g}"
    if isinstance(error, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encode(error), status or error.status, headers, "application/json")
