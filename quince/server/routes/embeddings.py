"""POST /v1/embeddings"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from quince.models.model_type import ModelType
from quince.server.dependencies import State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.embeddings import EmbeddingList, EmbeddingRequest, EmbeddingUsage, encode_vectors
from quince.text.generation import maybe_on_thread

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/embeddings", response_model=None)
async def create_embeddings(body: EmbeddingRequest, request: Request, state: State) -> Response:
    """A vector for every text."""
    params, inputs = body.params(), body.inputs
    request_id = new_id("embd")
    model = await state.acquire(body.model, request_id, types=(ModelType.EMBEDDING,))
    made = await while_connected(request, model.embedder.embed(request_id, inputs, params))
    if made is None:
        return client_closed()

    def answer() -> Response:
        data = encode_vectors(made.vectors, body.numbers_as)
        usage = EmbeddingUsage(made.prompt_tokens, made.prompt_tokens)
        listed = EmbeddingList(data=data, model=body.model or model.name, usage=usage)
        return json_response(listed, X_Request_Id=request_id)

    return await maybe_on_thread(answer, made.vectors.size)
