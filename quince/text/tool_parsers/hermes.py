"""``<tool_call>{"name": "f", "arguments": {...}}</tool_call>`` and the same in other brackets.

Hermes 2 and 3, Qwen 2.5 and 3, Quince's demo model: one object in each bracket. NVIDIA Nemotron and Phi-4-mini: a list
of objects in one bracket.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.json_calls import CallObject, call_list
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked


def object_call(rules: Rules, tool: Tool, arguments: str = "arguments") -> str:
    """The Lark expression of a call as an object."""
    head = rules.literal(f'{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "{arguments}": ')
    return f"{head} {rules.arguments(tool.parameters)} {rules.literal('}')}"


class JsonFormat(ToolFormat):
    """Objects, or lists of them, between two marks."""

    def __init__(
        self, name: str, marks: tuple[str, str], *, listed: bool = False, aliases: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.aliases = aliases
        self.markers = marks
        if listed:
            self.opening, self.between, self.closing = f"{marks[0]}[", ", ", f"]{marks[1]}"
        else:
            self.between = "\n"
        self._marks = marks
        self._listed = listed

    def matches(self, template: str) -> bool:
        return self._marks[0] in template

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        closing = Marks(self._marks[1])

        def call(_mark: str) -> Reading[bool]:
            yield from reader.space()
            if (yield from reader.peek()) == "[":
                return (yield from call_list(reader, closing))
            if not (yield from CallObject(reader, closing).read()):
                return False
            yield from reader.space()
            yield from reader.literal(self._marks[1])
            return True

        yield from marked(reader, Marks(self._marks[0]), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        if self._listed:
            return object_call(rules, tool)
        opening, closing = rules.literal(f"{self._marks[0]}\n"), rules.literal(f"\n{self._marks[1]}")
        return f"{opening} {object_call(rules, tool)} {closing}"


HERMES = JsonFormat("hermes", ("<tool_call>", "</tool_call>"), aliases=("json_tools",))
NEMOTRON = JsonFormat("nemotron", ("<TOOLCALL>", "</TOOLCALL>"), listed=True)
PHI4_MINI = JsonFormat("phi4_mini", ("<|tool_call|>", "<|/tool_call|>"), listed=True)
