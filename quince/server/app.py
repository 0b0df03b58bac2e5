"""The ASGI application: the route table, and the one place where errors become HTTP answers."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.responses import Response

from quince import __version__
from quince.config import ServeConfig
from quince.errors import InvalidRequest, QuinceError
from quince.models.manager import ModelManager
from quince.server.dependencies import ServerState
from quince.server.limits import BodyLimit
from quince.server.protocol import ollama, openai
from quince.server.routes import chat, completions, models, ollama_models, operations

logger = logging.getLogger(__name__)


def create_app(config: ServeConfig, manager: ModelManager) -> FastAPI:
    """The application over a manager that whoever runs the application starts and stops."""
    app = FastAPIOffline(
        title="Quince",
        version=__version__,
        description="A model server for MLX.",
    )
    app.state.server = ServerState(config, manager)
    for routes in (chat, completions, models, ollama_models, operations):
        app.include_router(routes.router)
    app.add_exception_handler(QuinceError, _on_quince_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_unexpected_error)
    app.add_middleware(BodyLimit, max_size=config.max_body_size)
    return app


async def _on_quince_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuinceError)
    headers = {"Retry-After": f"{error.retry_after:g}"} if error.retry_after is not None else {}
    return _answer(request, error, error.status, headers)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """What is wrong, by the name that the client used."""
    assert isinstance(error, RequestValidationError)
    if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
        return _answer(
            request, InvalidRequest("the body must be JSON, sent with 'Content-Type: application/json'"), 400
        )
    # Of a union's several complaints, the deepest is about the branch that was meant.
    deepest: dict[str, Any] = dict(max(error.errors(), key=lambda one: len(one["loc"])))
    if deepest["type"] == "json_invalid":
        return _answer(request, InvalidRequest(f"the body is not valid JSON: {deepest['ctx']['error']}"), 400)
    name = _field_name(deepest, error.body)
    message = deepest["msg"].removeprefix("Value error, ")
    return _answer(request, InvalidRequest(f"{name or 'body'}: {message}", param=name), 400)


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


async def _on_http_error(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    return _answer(request, InvalidRequest(str(error.detail)), error.status_code, dict(error.headers or {}))


async def _on_unexpected_error(request: Request, error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return _answer(request, QuinceError("The server had an unexpected error; its log says more."), 500)


def _answer(request: Request, error: QuinceError, status: int, headers: dict[str, str] | None = None) -> Response:
    encode = ollama.encode_error if request.url.path.startswith("/api/") else openai.encode_error
    return Response(encode(error), status_code=status, media_type="application/json", headers=headers)
