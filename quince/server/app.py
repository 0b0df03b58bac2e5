"""The ASGI application: the route table, and the one place where errors become HTTP answers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
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
from quince.server.protocol.openai import encode_error
from quince.server.routes import chat, completions, models, operations

logger = logging.getLogger(__name__)


def create_app(config: ServeConfig) -> FastAPI:
    """Raises UsageError if the configuration names a model that is not there."""
    manager = ModelManager(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await manager.start()
        try:
            yield
        finally:
            await manager.stop()

    app = FastAPIOffline(
        title="Quince",
        version=__version__,
        description="A model server for MLX.",
        lifespan=lifespan,
    )
    app.state.server = ServerState(config, manager)
    for routes in (chat, completions, models, operations):
        app.include_router(routes.router)
    app.add_exception_handler(QuinceError, _on_quince_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_unexpected_error)
    app.add_middleware(BodyLimit, max_size=config.max_body_size)
    return app


async def _on_quince_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, QuinceError)
    headers = {"Retry-After": f"{error.retry_after:g}"} if error.retry_after is not None else {}
    return _answer(error, error.status, headers)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    """The first thing that is wrong, by the name that the client used."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    path = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return _answer(InvalidRequest(f"the body is not valid JSON: {first['ctx']['error']}"), 400)
    name = ".".join(path) or None
    return _answer(InvalidRequest(f"{name or 'body'}: {first['msg']}", param=name), 400)


async def _on_http_error(_: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths, wrong methods, unreadable bodies."""
    assert isinstance(error, HTTPException)
    return _answer(InvalidRequest(str(error.detail)), error.status_code, dict(error.headers or {}))


async def _on_unexpected_error(_: Request, error: Exception) -> Response:
    logger.error("unexpected error", exc_info=error)
    return _answer(QuinceError("The server had an unexpected error; its log says more."), 500)


def _answer(error: QuinceError, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(encode_error(error), status_code=status, media_type="application/json", headers=headers)
