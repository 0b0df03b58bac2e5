"""Kimi K2: ``<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`` in a section.

What stands for the name is the call's id too: ``functions.``, the name, a number that counts the conversation's calls.
The template takes exactly that id back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.json_calls import arguments
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked

_SECTION = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
_CALL = ("<|tool_call_begin|>", "<|tool_call_end|>")
_ARGUMENTS = "<|tool_call_argument_begin|>"
_ID = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?")
_ID_TEXT = re.compile(r"[^\s<>]*")
_MAX_ID = 256


class KimiK2(ToolFormat):
    name = "kimi_k2"
    markers = (*_SECTION, *_CALL, _ARGUMENTS)
    opening, closing = _SECTION

    def matches(self, template: str) -> bool:
        return _SECTION[0] in template

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        def call(mark: str) -> Reading[bool]:
            yield from reader.space()
            if mark == _SECTION[0] and not (yield from reader.literal(_CALL[0])):
                return False
            yield from reader.space()
            call_id = yield from reader.run(_ID_TEXT, _MAX_ID)
            if not call_id:
                return False
            yield from reader.space()
            if not (yield from reader.literal(_ARGUMENTS)):
                return False
            found = _ID.fullmatch(call_id)
            reader.begin(found[1] if found else call_id, call_id)
            yield from arguments(reader, Marks(_CALL[1]))
            yield from reader.space()
            yield from reader.literal(_SECTION[1])
            return True

        yield from marked(reader, Marks(_SECTION[0], _CALL[0]), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        head = f"{rules.literal(f'{_CALL[0]}functions.{tool.name}:')} /[0-9]{{1,3}}/ {rules.literal(_ARGUMENTS)}"
        return f"{head} {rules.arguments(tool.parameters)} {rules.literal(_CALL[1])}"

    def new_id(self, name: str, index: int) -> str:
        return f"functions.{name}:{index}"
