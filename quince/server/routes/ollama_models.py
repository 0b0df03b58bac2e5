"""Ollama's model management: /api/version, tags, ps, show, pull, copy, delete"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from quince import __version__
from quince.errors import InvalidRequest, ModelNotFound
from quince.models.manager import ModelManager
from quince.server.dependencies import REQUEST_ID_HEADER, State, client_closed, json_response, new_id, while_connected
from quince.server.ndjson import NdjsonStream, lines
from quince.server.protocol import ollama

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_CONTENT = {"application/json": {"schema": _ERROR}}

router = APIRouter(
    tags=["Ollama"],
    responses={
        "4XX": {"description": "The request's fault", "content": _CONTENT},
        "5XX": {"description": "The server's fault", "content": _CONTENT},
    },
)

B = TypeVar("B", bound=BaseModel)


def _body(type: type[BaseModel]) -> dict[str, Any]:
    """For the API pages: the routes read their bodies themselves."""
    schema = type.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read(request: Request, type: type[B]) -> B:
    """As Ollama does: a body is JSON whatever its Content-Type says, which is not much with curl."""
    try:
        return type.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(f"{name or 'body'}: {first['msg']}", param=name or None) from None


@router.get("/api/version", response_model=None)
async def version() -> Response:
    return json_response({"version": ollama.API_VERSION, "quince": __version__})


@router.get("/api/tags", response_model=None)
async def tags(state: State) -> Response:
    """Every model that this server serves."""
    statuses = await state.manager.statuses()
    return json_response({"models": [ollama.tag(status.stored) for status in statuses]})


@router.get("/api/ps", response_model=None)
async def ps(state: State) -> Response:
    """The loaded ones."""
    now = datetime.datetime.now(datetime.UTC)
    loaded = [status for status in await state.manager.statuses() if status.memory]
    return json_response({"models": [ollama.running(status, now) for status in loaded]})


@router.post("/api/show", response_model=None, openapi_extra=_body(ollama.ShowRequest))
async def show(request: Request, state: State) -> Response:
    """What a model is, read from its files."""
    body = await _read(request, ollama.ShowRequest)
    status = await state.manager.status(ollama.plain_name(body.model))
    return json_response(await asyncio.to_thread(ollama.shown, status.stored))


@router.post("/api/pull", response_model=None, openapi_extra=_body(ollama.PullBody))
async def pull(request: Request, state: State) -> Response:
    """Install a model from the hub, by its id or an alias; a client that leaves ends it, and it can be resumed."""
    body = await _read(request, ollama.PullBody)
    if body.insecure:
        raise InvalidRequest("insecure: the hub is the one that HF_ENDPOINT names", param="insecure")
    _check_managing(state.manager)
    events = _pull(state.manager, ollama.plain_name(body.model))
    if body.stream is False:
        last = await while_connected(request, _last(events))
        return client_closed() if last is None else json_response(last)
    return NdjsonStream(
        lines(events, ollama.encode_error),
        encode_error=ollama.encode_error,
        headers={REQUEST_ID_HEADER: new_id("pull")},
        keepalive_interval=state.config.keepalive_interval,
    )


@router.post("/api/copy", response_model=None, openapi_extra=_body(ollama.CopyRequest))
async def copy(request: Request, state: State) -> Response:
    body = await _read(request, ollama.CopyRequest)
    _check_managing(state.manager)
    store = state.manager.store
    await asyncio.to_thread(store.copy, ollama.plain_name(body.source), ollama.plain_name(body.destination))
    return Response()


@router.delete("/api/delete", response_model=None, openapi_extra=_body(ollama.ModelRequest))
async def delete(request: Request, state: State) -> Response:
    """Remove a model; what runs on it comes to its end."""
    body = await _read(request, ollama.ModelRequest)
    _check_managing(state.manager)
    await asyncio.to_thread(state.manager.store.remove, ollama.plain_name(body.model))
    return Response()


async def _pull(manager: ModelManager, name: str) -> AsyncGenerator[dict[str, Any], None]:
    """Status objects. The first waits for a second, so that what is wrong from the start is an ordinary HTTP error."""
    from quince.models.pull import PullRequest

    repo_id = manager.store.resolve_alias(name)
    if repo_id.count("/") != 1:
        raise ModelNotFound(f"'{name}' is no hub id (owner/name) and no alias of one", param="model")
    job = manager.downloads.start(PullRequest(repo_id))
    held: dict[str, Any] | None = {"status": f"pulling {repo_id}"}
    async with aclosing(job.progress()) as news:
        async for progress in news:
            if progress.status.startswith("looking up"):
                continue
            if held is not None:
                yield held
                held = None
            yield ollama.pull_status(progress)
    yield {"status": "success"}


async def _last(events: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async with aclosing(events) as source:
        async for event in source:
            last = event
    return last


def _check_managing(manager: ModelManager) -> None:
    """A server of one model keeps to it: what would be installed here would not be served."""
    if manager.registry.only is not None:
        raise InvalidRequest("this server serves one model; start `quince serve` without a model to manage models here")
