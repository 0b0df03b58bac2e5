"""POST /v1/completions"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec
from fastapi import APIRouter, Request

from quince.server import sse
from quince.server.dependencies import REQUEST_ID_HEADER, State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.openai import UsageBody, encode_error
from quince.server.protocol.openai_completions import Completion, CompletionRequest, TextChoice, TextLogprobs
from quince.text.events import Event, Finished, TextDelta, TokenLogprob, total_usage
from quince.text.generation import GenerationParams

router = APIRouter(tags=["OpenAI"])

Events = AsyncGenerator[tuple[int, Event], None]


@router.post("/v1/completions", response_model=None)
async def create_completion(body: CompletionRequest, request: Request, state: State) -> object:
    """Continue texts, at once or streamed."""
    params, prompts = body.params(), body.prompts
    request_id = new_id("cmpl")

    async def begin() -> tuple[Events, _Maker]:
        model = await state.acquire(body.model, request_id, streaming=bool(body.stream))
        events = model.generator.complete(request_id, prompts, params)
        return events, _Maker(request_id, body.model or model.name, params)

    if body.stream:
        return sse.EventStream(
            _stream(begin, include_usage=body.include_usage),
            encode_error=encode_error,
            headers={REQUEST_ID_HEADER: request_id},
            keepalive_interval=state.config.keepalive_interval,
        )
    answer = await while_connected(request, _collect(*await begin(), len(prompts) * params.n))
    return client_closed() if answer is None else json_response(answer, X_Request_Id=request_id)


class _Maker:
    """What all chunks of an answer, or the whole answer, have in common."""

    def __init__(self, request_id: str, model: str, params: GenerationParams) -> None:
        self.params = params
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

    def usage(self, ends: Mapping[int, Finished]) -> UsageBody:
        return UsageBody.of(total_usage([ends[index] for index in sorted(ends)], self.params.n))

    def logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> TextLogprobs | None:
        wanted = self.params.logprobs
        return None if wanted is None else TextLogprobs.of(tokens, offset, top=wanted > 0)


async def _stream(
    begin: Callable[[], Awaitable[tuple[Events, _Maker]]], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """``begin`` waits until the model is loaded: within the stream, which is kept alive meanwhile."""
    events, make = await begin()
    offsets: defaultdict[int, int] = defaultdict(int)
    ends: dict[int, Finished] = {}
    async with aclosing(events) as source:
        async for index, event in source:
            match event:
                case TextDelta(text, tokens):
                    logprobs = make.logprobs(tokens, offsets[index])
                    choice = TextChoice(text=text, index=index, logprobs=logprobs)
                    offsets[index] += len(text)
                case Finished(reason):
                    ends[index] = event
                    choice = TextChoice(text="", index=index, finish_reason=reason.value)
                case _:
                    continue  # nothing is parsed here
            yield sse.event(msgspec.json.encode(make(choice)))
    if include_usage:
        yield sse.event(msgspec.json.encode(make(usage=make.usage(ends))))
    yield sse.DONE


async def _collect(events: Events, make: _Maker, count: int) -> Completion:
    texts: list[list[str]] = [[] for _ in range(count)]
    tokens: list[list[TokenLogprob]] = [[] for _ in range(count)]
    ends: dict[int, Finished] = {}
    async with aclosing(events) as source:
        async for index, event in source:
            match event:
                case TextDelta(text, logprobs):
                    texts[index].append(text)
                    tokens[index] += logprobs
                case Finished():
                    ends[index] = event
    choices = [
        TextChoice(
            text="".join(text),
            index=index,
            logprobs=make.logprobs(tokens[index], 0),
            finish_reason=ends[index].reason.value,
        )
        for index, text in enumerate(texts)
    ]
    return make(*choices, usage=make.usage(ends))
