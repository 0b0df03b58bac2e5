"""DeepSeek: sections of calls between marks with full-width bars.

V3.1 writes name, separator and arguments in a call; V3 and R1 ``function``, separator, name, a newline, and the
arguments in a Markdown fence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.json_calls import arguments
from quince.text.tool_parsers.scan import Marks, Reader, Reading, drop, marked

_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_CALL = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```json\n"
_NAME = re.compile(r"[^\s<>{]*")
_MAX_NAME = 256


class DeepSeek(ToolFormat):
    markers = (*_SECTION, *_CALL, _SEPARATOR)
    opening, closing = _SECTION

    def __init__(self, name: str, *, fenced: bool) -> None:
        self.name = name
        self._fenced = fenced
        self.between = "\n" if fenced else ""

    def matches(self, template: str) -> bool:
        return _SECTION[0] in template and ("```json" in template) == self._fenced

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        def call(mark: str) -> Reading[bool]:
            yield from reader.space()
            if mark == _SECTION[0] and not (yield from reader.literal(_CALL[0])):
                return False
            name = yield from reader.run(_NAME, _MAX_NAME)
            if not name or not (yield from reader.literal(_SEPARATOR)):
                return False
            if name == "function":  # V3; a tool of this name would be followed by its arguments
                name = (yield from reader.run(_NAME, _MAX_NAME)) or name
                yield from reader.space()
            reader.begin(name)
            fenced = yield from reader.literal(_FENCE.rstrip())
            yield from arguments(reader, Marks("\n```" if fenced else _CALL[1]))
            if fenced:
                yield from reader.until(Marks(_CALL[1]), drop)
            yield from reader.space()
            yield from reader.literal(_SECTION[1])
            return True

        yield from marked(reader, Marks(_SECTION[0], _CALL[0]), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        if self._fenced:
            head, end = f"function{_SEPARATOR}{tool.name}\n{_FENCE}", "\n```"
        else:
            head, end = f"{tool.name}{_SEPARATOR}", ""
        opening, closing = rules.literal(_CALL[0] + head), rules.literal(end + _CALL[1])
        return f"{opening} {rules.arguments(tool.parameters)} {closing}"


DEEPSEEK_V3 = DeepSeek("deepseek_v3", fenced=True)
DEEPSEEK_V31 = DeepSeek("deepseek_v31", fenced=False)
