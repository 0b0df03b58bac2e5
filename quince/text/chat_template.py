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

_PROBE = "quince"


def wants_parts(tokenizer: Tokenizer) -> bool:
    """Whether the template shows text only as one of the parts of a message: some templates of models that see find
    nothing in content that is a string, and do not say so."""

    def shows(content: str | list[Message]) -> bool:
        with contextlib.suppress(*_TEMPLATE_FAILURES):
            return _PROBE in tokenizer.render_chat([{"role": "user", "content": content}], {})
        return False

    return bool(tokenizer.chat_template) and not shows(_PROBE) and shows(_parts(_PROBE))


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    template_kwargs: dict[str, Any],
    tools: Sequence[dict[str, Any]] | None = None,
    *,
    as_parts: bool = False,
) -> str:
    """``as_parts`` is what ``wants_parts`` says.

    Raises InvalidRequest if the model has no template or its template refuses the conversation.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
    conversation = normalise(messages)
    if as_parts:
        conversation = [{**message, "content": _parts(message["content"])} for message in conversation]
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

    ``content`` becomes a string (text parts joined, null empty) unless there are images or videos in it, ``developer``
    becomes ``system``, the arguments of tool calls become objects. Calls without an id get one, so do their results,
    which come in the order of the calls; results are told the name of the function.
    """
    regular: list[Message] = []
    unanswered: dict[str, str] = {}  # names of the functions that were called, by the id of the call
    for number, message in enumerate(messages):
        one = {**message, "content": _content(message.get("content"))}
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


def _content(content: str | list[Message] | None) -> str | list[Message]:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part["type"] != "text" for part in content):
        return content
    return "".join(part["text"] for part in content)


def _parts(content: str | list[Message]) -> list[Message]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _tool_call(call: Message, new_id: str) -> Message:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        # The model wrote it: what is no JSON reaches the template as it is.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {**call, "id": call.get("id") or new_id, "function": {**function, "arguments": arguments}}
