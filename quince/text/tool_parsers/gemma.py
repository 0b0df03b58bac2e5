"""``call:f{a:<|"|>text<|"|>,n:1}`` between two marks: Gemma 4, and FunctionGemma with ``<escape>`` for the quotes.

Keys are bare, strings stand between the quote mark as they are, everything else is as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.literals import Literal
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked

_NAME = re.compile(r"[\w.\-/:]*")
_MAX_NAME = 256


class Gemma(ToolFormat):
    def __init__(self, name: str, marks: tuple[str, str], quotes: str) -> None:
        self.name = name
        self.markers = (*marks, quotes)
        self._marks = marks
        self._quotes = quotes

    def matches(self, template: str) -> bool:
        return all(mark in template for mark in self._marks)

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        def call(_mark: str) -> Reading[bool]:
            yield from reader.space()
            if not (yield from one()):
                return False
            while (yield from reader.peek()) == "c" and (yield from another()):
                pass
            yield from reader.literal(self._marks[1])
            return True

        def another() -> Reading[bool]:
            """One more call between the same marks."""
            reader.hold()
            if (yield from one()):
                return True
            reader.rewind()
            return False

        def one() -> Reading[bool]:
            if not (yield from reader.literal("call:")):
                return False
            name = yield from reader.run(_NAME, _MAX_NAME)
            if not name or (yield from reader.peek()) != "{":
                return False
            reader.begin(name)
            if (yield from Literal(reader, reader.out.arguments, [self._quotes]).read()):
                yield from reader.space()
            else:
                mark = yield from reader.until(Marks(self._marks[1]), reader.out.arguments)
                reader.unread(mark)
            return True

        yield from marked(reader, Marks(self._marks[0]), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        def member(name: str, schema: Any, root: Any) -> str:
            value = rules.value(schema, root, "", (self._quotes, self._quotes))
            return f"{rules.literal(f'{name}:')} {value}"

        opening = rules.literal(f"{self._marks[0]}call:{tool.name}{{")
        parameters = rules.parameters(tool.parameters, member, ",")
        return f"{opening} {parameters} {rules.literal('}' + self._marks[1])}"
