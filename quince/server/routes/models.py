"""GET /v1/models and /v1/models/{id}; POST /v1/models/{id}/load and /unload"""

from __future__ import annotations

import dataclasses

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from quince.models.registry import adapted_name
from quince.models.slot import ModelStatus
from quince.server.dependencies import State, json_response
from quince.server.protocol.ollama import keep_alive
from quince.server.protocol.openai import Model, ModelList

router = APIRouter(tags=["OpenAI"])


class LoadRequest(BaseModel):
    """``keep_alive`` as in Ollama's API: seconds, or a duration like "5m"; negative: until it is unloaded."""

    model_config = ConfigDict(strict=True, extra="forbid")

    keep_alive: float | str | None = None


@router.get("/v1/models", response_model=None)
async def list_models(state: State) -> Response:
    """What this server serves, its first model first, then that model's adapters."""
    statuses = await state.manager.statuses()
    adapted = [dataclasses.replace(statuses[0], adapter=adapter) for adapter in state.manager.registry.adapters]
    return json_response(ModelList([_describe(status) for status in [*statuses, *adapted]]))


@router.get("/v1/models/{model_id:path}", response_model=None)
async def get_model(model_id: str, state: State) -> Response:
    return json_response(_describe(await state.manager.status(model_id)))


@router.post("/v1/models/{model_id:path}/load", response_model=None)
async def load_model(model_id: str, state: State, body: LoadRequest | None = None) -> Response:
    """Load the model now; answers when it is ready."""
    seconds = keep_alive(body.keep_alive) if body else None
    return json_response(_describe(await state.manager.load(model_id, keep_alive=seconds)))


@router.post("/v1/models/{model_id:path}/unload", response_model=None)
async def unload_model(model_id: str, state: State) -> Response:
    """Unload the model: at once, or (state draining) when the requests that run on it have ended."""
    return json_response(_describe(await state.manager.unload(model_id)))


def _describe(status: ModelStatus) -> Model:
    stored, adapter = status.stored, status.adapter
    return Model(
        id=stored.name if adapter is None else adapted_name(stored.name, adapter),
        parent=msgspec.UNSET if adapter is None else stored.name,
        created=int(stored.manifest.installed_at),
        type=stored.type.value,
        state=status.state.value,
        max_model_len=status.context,
    )
