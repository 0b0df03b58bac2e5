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


def render(tokenizer: Tokenizer, messages: Sequence[Message], template_kwargs: dict[str, Any]) -> str:
    """Raises InvalidRequest if the model has no template or its template refuses the conversation."""
    if not tokenizer.has_chat_template:
        raise InvalidRequest("this model has no chat template: use /v1/completions", param="messages")
    try:
        return tokenizer.render_chat([normalise(message) for message in messages], template_kwargs)
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise InvalidRequest(f"the model's chat template refused the messages: {error}", param="messages") from error


def normalise(message: Message) -> Message:
    """One spelling for what clients spell in several ways: templates expect it.

    ``content`` becomes a string (text parts joined, null empty), ``developer`` becomes ``system``, and the arguments
    of tool calls become objects.
    """
    role = "system" if message["role"] == "developer" else message["role"]
    regular = {**message, "role": role, "content": _text(message.get("content"))}
    if message.get("tool_calls"):
        regular["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return regular


def _text(content: str | list[Message] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content)


def _tool_call(call: Message) -> Message:
    function = call["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(
            ValueError, RecursionError
        ):  # the model wrote it: else the template gets the text as it is
            arguments = json.loads(arguments or "{}")
    return {**call, "function": {**function, "arguments": arguments}}
