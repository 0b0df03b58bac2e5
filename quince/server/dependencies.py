"""What routes share: the server's state, request ids, and working only as long as the client is there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request
from starlette.responses import Response

from quince.config import ServeConfig
from quince.errors import EngineUnavailable
from quince.metrics import Metrics, current_request
from quince.models.loaded import LoadedModel
from quince.models.manager import ModelManager
from quince.server.sse import wait_disconnect

T = TypeVar("T")

REQUEST_ID_HEADER = "X-Request-Id"


@dataclass(frozen=True)
class ServerState:
    config: ServeConfig
    manager: ModelManager
    metrics: Metrics


@dataclass(frozen=True)
class RequestState(ServerState):
    """The server's state as one request sees it: what it acquires is its own until its answer has been sent."""

    request: Request
    leases: AsyncExitStack

    async def acquire(
        self, name: str | None, request_id: str, *, streaming: bool = False, **options: Any
    ) -> LoadedModel:
        """As ModelManager.acquire; a client that leaves while the model is loaded no longer waits for it.

        ``streaming``: the caller is a stream, which sees to that itself.
        """
        entering = self.leases.enter_async_context(self.manager.acquire(name, request_id, **options))
        if streaming or self.manager.is_ready(name):
            model = await entering
        else:
            waited = await while_connected(self.request, entering)
            if waited is None:
                current_request().client_left = True
                raise EngineUnavailable("the client has left")
            model = waited
        current_request().acquired(model.name)
        return model


async def request_state(request: Request) -> AsyncIterator[RequestState]:
    """FastAPI ends it when the answer has been sent, or its client has left."""
    state = request.app.state.server
    assert isinstance(state, ServerState)
    async with AsyncExitStack() as leases:
        yield RequestState(state.config, state.manager, state.metrics, request, leases)


State = Annotated[RequestState, Depends(request_state)]


def new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def json_response(body: msgspec.Struct | dict[str, Any], *, status: int = 200, **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=fields)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, cancelled (and None) as soon as the client is gone."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(wait_disconnect(request.receive))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = task.done()
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
    return task.result() if finished else None


def client_closed() -> Response:
    """What is returned to nobody: the client has left (nginx's code for it, seen in logs only)."""
    return Response(status_code=499)
