"""POST /v1/chat/completions"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from fastapi import APIRouter, Request

from quince.server import sse
from quince.server.dependencies import REQUEST_ID_HEADER, State, client_closed, json_response, new_id, while_connected
from quince.server.protocol.openai import UsageBody, encode_error
from quince.server.protocol.openai_chat import (
    AnswerMessage,
    CallBody,
    CallDelta,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatCompletionRequest,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
)
from quince.text.events import (
    Event,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStart,
    total_usage,
)

router = APIRouter(tags=["OpenAI"])

Events = AsyncGenerator[tuple[int, Event], None]


@router.post("/v1/chat/completions", response_model=None)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, state: State) -> object:
    """Answer a conversation, at once or streamed."""
    params = body.params()
    messages, media = body.template_messages()
    request_id = new_id("chatcmpl")

    async def begin() -> tuple[Events, _Head]:
        model = await state.acquire(body.model, request_id, streaming=bool(body.stream))
        events = model.generator.chat(request_id, messages, params, media)
        return events, _Head(request_id, body.model or model.name, logprobs=params.logprobs is not None)

    if body.stream:
        return sse.EventStream(
            _stream(begin, include_usage=body.include_usage),
            encode_error=encode_error,
            headers={REQUEST_ID_HEADER: request_id},
            keepalive_interval=state.config.keepalive_interval,
        )
    answer = await while_connected(request, _collect(*await begin(), params.n))
    return client_closed() if answer is None else json_response(answer, X_Request_Id=request_id)


class _Head:
    """What all chunks of an answer, or the whole answer, have in common."""

    def __init__(self, request_id: str, model: str, *, logprobs: bool) -> None:
        self.request_id = request_id
        self.model = model
        self.logprobs = logprobs
        self.created = int(time.time())

    def chunk(self, *choices: ChunkChoice, usage: UsageBody | None = None) -> bytes:
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
    begin: Callable[[], Awaitable[tuple[Events, _Head]]], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """For each choice the role once, what it says as it comes, and the reason; usage if asked for; the end mark.

    ``begin`` waits until the model is loaded: within the stream, which is kept alive meanwhile.
    """
    events, head = await begin()
    begun: set[int] = set()
    ends: list[Finished] = []
    async with aclosing(events) as source:
        async for index, event in source:
            role = b"" if index in begun else head.chunk(ChunkChoice(Delta(role="assistant", content=""), index=index))
            begun.add(index)
            if isinstance(event, Finished):
                ends.append(event)
            yield role + head.chunk(_choice(index, event, head))
    if include_usage:
        yield head.chunk(usage=UsageBody.of(total_usage(ends, len(ends))))
    yield sse.DONE


def _choice(index: int, event: Event, head: _Head) -> ChunkChoice:
    match event:
        case TextDelta(text, logprobs):
            tokens = ChoiceLogprobs.of(logprobs) if head.logprobs else None
            return ChunkChoice(Delta(content=text), index=index, logprobs=tokens)
        case ReasoningDelta(text):
            return ChunkChoice(Delta(reasoning_content=text), index=index)
        case ToolCallStart(call, name):
            start = CallDelta(call, CalledFunction(name, ""), event.id, "function")
            return ChunkChoice(Delta(tool_calls=[start]), index=index)
        case ToolCallDelta(call, arguments):
            return ChunkChoice(Delta(tool_calls=[CallDelta(call, CalledFunction(arguments=arguments))]), index=index)
        case Finished(reason):
            return ChunkChoice(Delta(), index=index, finish_reason=reason.value)


@dataclass
class _Collected:
    """One choice, piece by piece."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[tuple[ToolCallStart, list[str]]] = field(default_factory=list)
    end: Finished | None = None

    def add(self, event: Event) -> None:
        match event:
            case TextDelta(text, logprobs):
                self.text.append(text)
                self.logprobs += logprobs
            case ReasoningDelta(text):
                self.reasoning.append(text)
            case ToolCallStart():
                self.calls.append((event, []))
            case ToolCallDelta(_, arguments):
                self.calls[-1][1].append(arguments)
            case Finished():
                self.end = event

    def choice(self, index: int, end: Finished, head: _Head) -> ChatChoice:
        text, reasoning = "".join(self.text), "".join(self.reasoning)
        calls = [
            CallBody(start.id or "", CalledFunction(start.name, "".join(arguments)))
            for start, arguments in self.calls
        ]  # fmt: skip
        message = AnswerMessage(
            content=text if text or not calls else None,
            reasoning_content=reasoning or msgspec.UNSET,
            tool_calls=calls or msgspec.UNSET,
        )
        logprobs = ChoiceLogprobs.of(tuple(self.logprobs)) if head.logprobs else None
        return ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=end.reason.value)


async def _collect(events: Events, head: _Head, count: int) -> ChatCompletion:
    choices = [_Collected() for _ in range(count)]
    async with aclosing(events) as source:
        async for index, event in source:
            choices[index].add(event)
    ends = [choice.end for choice in choices if choice.end is not None]
    return ChatCompletion(
        id=head.request_id,
        created=head.created,
        model=head.model,
        choices=[
            choice.choice(index, end, head) for index, (choice, end) in enumerate(zip(choices, ends, strict=True))
        ],
        usage=UsageBody.of(total_usage(ends, len(ends))),
    )
