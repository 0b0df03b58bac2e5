"""POST /v1/chat/completions"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request

from quince.server import sse
from quince.server.dependencies import REQUEST_ID_HEADER, State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.openai import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatCompletionRequest,
    ChunkChoice,
    Delta,
    UsageBody,
    encode_error,
)
from quince.text.events import Event, Finished, TextDelta

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, state: State) -> object:
    """Answer a conversation, at once or streamed."""
    model = await state.acquire(body.model)
    request_id = new_id("chatcmpl")
    events = model.generator.chat(request_id, body.template_messages(), body.params())
    chunk = _ChunkMaker(request_id, body.model or model.name)
    if body.stream:
        return sse.EventStream(
            _stream(events, chunk, include_usage=body.include_usage),
            encode_error=encode_error,
            headers={REQUEST_ID_HEADER: request_id},
            keepalive_interval=state.config.keepalive_interval,
        )
    answer = await while_connected(request, _collect(events, chunk))
    return client_closed() if answer is None else json_response(answer, X_Request_Id=request_id)


class _ChunkMaker:
    """The fields that every chunk of one answer shares."""

    def __init__(self, request_id: str, model: str) -> None:
        self.request_id = request_id
        self.model = model
        self.created = int(time.time())

    def __call__(self, *choices: ChunkChoice, usage: UsageBody | None = None) -> bytes:
        chunk = ChatChunk(
            id=self.request_id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=list(choices),
            usage=usage,
        )
        return sse.event(msgspec.json.encode(chunk))


async def _stream(
    events: AsyncGenerator[Event, None], chunk: _ChunkMaker, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Role once, text as it comes, the reason, usage if asked for, and the end mark."""
    role = chunk(ChunkChoice(Delta(role="assistant", content="")))
    async with aclosing(events) as source:
        async for event in source:
            match event:
                case TextDelta(text):
                    yield role + chunk(ChunkChoice(Delta(content=text)))
                case Finished(reason, usage):
                    yield role + chunk(ChunkChoice(Delta(), finish_reason=reason.value))
                    if include_usage:
                        yield chunk(usage=UsageBody.of(usage))
            role = b""
    yield sse.DONE


async def _collect(events: AsyncGenerator[Event, None], chunk: _ChunkMaker) -> ChatCompletion:
    text: list[str] = []
    async with aclosing(events) as source:
        async for event in source:
            match event:
                case TextDelta(delta):
                    text.append(delta)
                case Finished() as finished:
                    end = finished
    return ChatCompletion(
        id=chunk.request_id,
        created=chunk.created,
        model=chunk.model,
        choices=[ChatChoice(AnswerMessage("".join(text)), end.reason.value)],
        usage=UsageBody.of(end.usage),
    )
