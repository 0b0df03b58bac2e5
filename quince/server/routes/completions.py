"""POST /v1/completions"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request

from quince.server import sse
from quince.server.dependencies import REQUEST_ID_HEADER, State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.openai import Completion, CompletionRequest, TextChoice, UsageBody, encode_error
from quince.text.events import Event, Finished, TextDelta

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/completions", response_model=None)
async def create_completion(body: CompletionRequest, request: Request, state: State) -> object:
    """Continue a text, at once or streamed."""
    model = await state.acquire(body.model)
    request_id = new_id("cmpl")
    events = model.generator.complete(request_id, body.prompt, body.params())
    make = _Maker(request_id, body.model or model.name)
    if body.stream:
        return sse.EventStream(
            _stream(events, make, include_usage=body.include_usage),
            encode_error=encode_error,
            headers={REQUEST_ID_HEADER: request_id},
            keepalive_interval=state.config.keepalive_interval,
        )
    answer = await while_connected(request, _collect(events, make))
    return client_closed() if answer is None else json_response(answer, X_Request_Id=request_id)


class _Maker:
    """The fields that every chunk of one answer, or the whole answer, shares."""

    def __init__(self, request_id: str, model: str) -> None:
        self._request_id = request_id
        self._model = model
        self._created = int(time.time())

    def __call__(self, *choices: TextChoice, usage: UsageBody | None = None) -> Completion:
        return Completion(
            id=self._request_id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=list(choices),
            usage=usage,
        )


async def _stream(
    events: AsyncGenerator[Event, None], make: _Maker, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events) as source:
        async for event in source:
            match event:
                case TextDelta(text):
                    yield sse.event(msgspec.json.encode(make(TextChoice(text))))
                case Finished(reason, usage):
                    yield sse.event(msgspec.json.encode(make(TextChoice("", reason.value))))
                    if include_usage:
                        yield sse.event(msgspec.json.encode(make(usage=UsageBody.of(usage))))
    yield sse.DONE


async def _collect(events: AsyncGenerator[Event, None], make: _Maker) -> Completion:
    text: list[str] = []
    async with aclosing(events) as source:
        async for event in source:
            match event:
                case TextDelta(delta):
                    text.append(delta)
                case Finished() as finished:
                    end = finished
    return make(TextChoice("".join(text), end.reason.value), usage=UsageBody.of(end.usage))
