"""The ASGI application: the route table, and what surrounds it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from quince import __version__
from quince.config import ServeConfig
from quince.metrics import Metrics
from quince.models.manager import ModelManager
from quince.server.auth import ApiKeys
from quince.server.dependencies import REQUEST_ID_HEADER, ServerState
from quince.server.errors import ErrorAnswers, on_http_error, on_validation_error
from quince.server.limits import BodyLimit
from quince.server.middleware import HeadAsGet, Requests
from quince.server.protocol.openai import ErrorBody
from quince.server.routes import chat, completions, embeddings, models, ollama_models, operations, rerank, tokenize


def create_app(config: ServeConfig, manager: ModelManager) -> FastAPI:
    """The application over a manager that whoever runs the application starts and stops."""
    app = FastAPIOffline(
        title="Quince",
        version=__version__,
        description="A model server for MLX.",
        responses=_error_responses(),
    )
    metrics = Metrics()
    app.state.server = ServerState(config, manager, metrics)
    for routes in (chat, completions, embeddings, rerank, tokenize, models, ollama_models, operations):
        app.include_router(routes.router)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    _surround(app, config, metrics)
    return app


def _surround(app: FastAPI, config: ServeConfig, metrics: Metrics) -> None:
    """From the inside out. Errors get their headers like every answer, preflights need no key."""
    app.add_middleware(BodyLimit, max_size=config.max_body_size)
    if config.api_key:
        app.add_middleware(ApiKeys, keys=[key.get_secret_value() for key in config.api_key])
    app.add_middleware(ErrorAnswers)
    app.add_middleware(HeadAsGet)
    if config.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origin,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After"],
        )
    app.add_middleware(Requests, metrics=metrics)


def _error_responses() -> dict[int | str, dict[str, Any]]:
    """For /openapi.json: what every route may answer besides its own. Keeps FastAPI's 422 out, which nothing sends."""
    _, components = msgspec.json.schema_components([ErrorBody])
    schema = {"type": "object", "properties": {"error": components["ErrorBody"]}, "required": ["error"]}
    content = {"application/json": {"schema": schema}}
    return {
        "4XX": {"description": "The request's fault", "content": content},
        "5XX": {"description": "The server's fault", "content": content},
    }
