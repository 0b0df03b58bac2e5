"""Messages to a prompt: the conversation is made regular first, then the model's own template renders it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from quince.errors import InvalidRequest
from quince.text.tokenizer import Tokenizer

Message = dict[str, Any]


# Whatever a template, which is a program of its publisher's, may raise.
_TEMPLATE_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template_kwargs: dict[str, Any],
    tools: Sequence[dict[str, Any]] | None = None,
) -> str:
    """Raises InvalidRequest if the model has no template or its template refuses the conversation."""
    if not tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
    conversation = normalise(messages)
    try:
        return tokenizer.render_chat(conversation, template_kwargs, tools)
    except _TEMPLATE_FAILURES as error:
        # Most templates want a call's arguments as an object, a few as text.
        with contextlib.suppress(*_TEMPLATE_FAILURES):
            if any(message.get("tool_calls") for message in conversation):
                return tokenizer.render_chat(_with_text_arguments(conversation), template_kwargs, tools)
        raise InvalidRequest(f"the model's chat template refused the messages: {error}", param="messages") from error


def normalise(messages: Sequence[Message]) -> list[Message]:
    """One spelling for what clients spell in several ways: templates expect it.

    ``content`` becomes a string (text parts joined, null empty), ``developer`` becomes ``system``, the arguments of
    tool calls become objects. Calls without an id get one, and so do their results, which come in the order of the
    calls; results are told the name of the function.
    """
    regular: list[Message] = []
    unanswered: dict[str, str] = {}  # names of the functions that were called, by the id of the call
    for number, message in enumerate(messages):
        one = {**message, "content": _text(message.get("content"))}
        if one["role"] == "developer":
            one["role"] = "system"
        if message.get("tool_calls"):
            one["tool_calls"] = [_tool_call(call, f"call{number}n{n}") for n, call in enumerate(message["tool_calls"])]
            unanswered |= {call["id"]: call["function"]["name"] for call in one["tool_calls"]}
        if one["role"] == "tool":
            call_id = one.get("tool_call_id") or next(iter(unanswered), "")
            if name := unanswered.pop(call_id, None):
                one |= {"tool_call_id": call_id, "name": name}
        regular.append(one)
    return regular


def _with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    def as_text(call: Message) -> Message:
        function = call["function"]
        arguments = function["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return {**call, "function": {**function, "arguments": text}}

    return [
        {**message, "tool_calls": [as_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _text(content: str | list[Message] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


def _tool_call(call: Message, new_id: str) -> Message:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # The model wrote it: what is no JSON reaches the template as it is.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {**call, "id": call.get("id") or new_id, "function": {**function, "arguments": arguments}}
