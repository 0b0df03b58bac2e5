"""POST /v1/rerank, where Jina's and Cohere's clients look for it"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from quince.models.model_type import ModelType
from quince.server.dependencies import State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.rerank import RerankAnswer, RerankRequest

router = APIRouter(tags=["Reranking"])


@router.post("/v1/rerank", response_model=None)
@router.post("/v2/rerank", response_model=None, include_in_schema=False)
@router.post("/rerank", response_model=None, include_in_schema=False)
async def create_rerank(body: RerankRequest, request: Request, state: State) -> Response:
    """Documents in the order in which they answer a query."""
    params, texts = body.params(), body.texts
    request_id = new_id("rerank")
    model = await state.acquire(body.model, request_id, types=(ModelType.RERANKER,))
    ranking = await while_connected(request, model.reranker.rank(request_id, body.query, texts, params))
    if ranking is None:
        return client_closed()
    answer = RerankAnswer.of(request_id, body.model or model.name, ranking, texts if body.return_documents else None)
    return json_response(answer, X_Request_Id=request_id)
