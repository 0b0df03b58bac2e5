"""GET /v1/models and /v1/models/{id}"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from quince.models.manager import LoadedModel
from quince.server.dependencies import State, json_response
from quince.server.protocol.openai import Model, ModelList

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=None)
async def list_models(state: State) -> Response:
    """The server's own models."""
    return json_response(ModelList([_describe(model) for model in state.manager.models]))


@router.get("/v1/models/{model_id:path}", response_model=None)
async def get_model(model_id: str, state: State) -> Response:
    return json_response(_describe(state.manager.acquire(model_id)))


def _describe(model: LoadedModel) -> Model:
    ready = model.engine.ready
    return Model(
        id=model.name,
        created=model.created,
        type="llm",
        state=model.engine.state.value,
        max_model_len=ready.max_model_len if ready else None,
    )
