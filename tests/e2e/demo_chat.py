"""Conversations with the embedded model, with tools that it can use, at once and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

DEMO = "quince-demo"

Message = dict[str, Any]
Tool = dict[str, Any]


def tool(name: str, description: str, *, strict: bool | None = None, **properties: Any) -> Tool:
    """A function whose parameters are all required."""
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function if strict is None else {**function, "strict": strict}}


WEATHER = tool("get_weather", "Get the weather of a city", city={"type": "string"})
MULTIPLY = tool("multiply", "Multiply two numbers", a={"type": "number"}, b={"type": "number"})
MESSAGE = tool("send_message", "Send a message to somebody", to={"type": "string"}, message={"type": "string"})

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "get_weather": lambda city: {"temperature": 21, "condition": "sunny"} if city == "Paris" else {"temperature": 8},
    "multiply": lambda a, b: {"result": a * b},
    "send_message": lambda to, message: {"status": f"sent {message} to {to}"},
}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def whole(client: openai.OpenAI, messages: str | Sequence[Message], **fields: Any) -> Choice:
    """The answer, all at once; greedy unless told otherwise."""
    (choice,) = completion(client, messages, **fields).choices
    return choice


def completion(client: openai.OpenAI, messages: str | Sequence[Message], **fields: Any) -> ChatCompletion:
    made: ChatCompletion = client.chat.completions.create(**_request(messages, fields))
    return made


def streamed(client: openai.OpenAI, messages: str | Sequence[Message], **fields: Any) -> Choice:
    """The answer put together from its deltas, as any client does it."""
    message: dict[str, Any] = {"role": None, "content": None}
    calls: dict[int, dict[str, Any]] = {}
    logprobs: list[Any] = []
    finished: list[str] = []
    with client.chat.completions.create(stream=True, **_request(messages, fields)) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                assert not finished or not choice.delta.model_dump(exclude_none=True), "something after the end"
                _add(message, calls, choice.delta)
                logprobs += choice.logprobs.content or [] if choice.logprobs else []
                finished += [choice.finish_reason] if choice.finish_reason else []
    (reason,) = finished
    if calls:
        assert list(calls) == list(range(len(calls)))
        message["tool_calls"] = list(calls.values())
        message["content"] = message["content"] or None
    found = {"content": [entry.model_dump() for entry in logprobs]} if fields.get("logprobs") else None
    return Choice.model_validate({"index": 0, "finish_reason": reason, "message": message, "logprobs": found})


def _add(message: dict[str, Any], calls: dict[int, dict[str, Any]], delta: Any) -> None:
    if delta.role is not None:
        assert message["role"] is None, "the role comes once"
        message["role"] = delta.role
    if delta.content is not None:
        message["content"] = (message["content"] or "") + delta.content
    if reasoning := getattr(delta, "reasoning_content", None):
        message["reasoning_content"] = message.get("reasoning_content", "") + reasoning
    for call in delta.tool_calls or []:
        if call.index not in calls:  # a call's first delta has its id and its name, no other has
            assert call.id and call.type == "function" and call.function.name
            calls[call.index] = {"id": call.id, "type": "function", "function": {"name": "", "arguments": ""}}
        else:
            assert call.id is None and call.function.name is None
        calls[call.index]["function"]["name"] += call.function.name or ""
        calls[call.index]["function"]["arguments"] += call.function.arguments or ""


def _request(messages: str | Sequence[Message], fields: dict[str, Any]) -> dict[str, Any]:
    listed = [user(messages)] if isinstance(messages, str) else list(messages)
    return {"model": DEMO, "messages": listed, "temperature": 0, **fields}


def comparable(choice: Choice) -> dict[str, Any]:
    """An answer without the ids of its calls, which are new every time."""
    body = choice.model_dump(exclude_none=True)
    for call in body["message"].get("tool_calls", []):
        del call["id"]
    return body


def calls_of(choice: Choice) -> list[tuple[str, Any]]:
    """Names and arguments."""
    calls = choice.message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"]


Ask = Callable[..., Choice]


def converse(client: openai.OpenAI, ask: Ask, question: str, tools: Sequence[Tool]) -> tuple[list[str], str]:
    """Run the model's tools until it answers; returns the names of those it called, and the answer."""
    messages, called = [user(question)], list[str]()
    for _ in range(6):
        choice = ask(client, messages, tools=tools)
        if choice.finish_reason != "tool_calls":
            assert choice.finish_reason == "stop"
            return called, choice.message.content or ""
        messages.append(choice.message.model_dump(exclude_none=True))
        for call, (name, arguments) in zip(choice.message.tool_calls or [], calls_of(choice), strict=True):
            called.append(name)
            result = json.dumps(FUNCTIONS[name](**arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise AssertionError(f"no end: {messages}")
