"""The formats whose calls ``Tags`` describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.scan import Reader, Reading
from quince.text.tool_parsers.tagged import TaggedCalls, Tags


class TaggedFormat(ToolFormat):
    """A family sets these: ``clues`` all stand in its template; a call begins as ``call_text`` there and ends as
    ``call_end`` (if not as the tags say), a parameter begins as ``param_text`` (``{}`` is the name); ``around`` stands
    between a value and its tags, ``newline`` behind a tag."""

    tags: Tags
    clues: tuple[str, ...]
    call_text: str
    param_text: str
    call_end = ""
    around = ""
    newline = "\n"

    def matches(self, template: str) -> bool:
        return all(clue in template for clue in self.clues)

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        yield from TaggedCalls(self.tags, tools, reader).read()

    def call(self, rules: Rules, tool: Tool) -> str:
        def member(name: str, schema: Any, root: Mapping[str, Any]) -> str:
            head = rules.literal(self.param_head(name, schema, root) + self.around)
            return f"{head} {rules.value(schema, root, self.around + self.tags.param[1] + self.newline)}"

        parameters = rules.parameters(tool.parameters, member)
        return f"{self.call_head(rules, tool.name)} {parameters} {rules.literal(self.call_end or self.tags.call[1])}"

    def call_head(self, rules: Rules, name: str) -> str:
        return rules.literal(self.call_text.format(name))

    def param_head(self, name: str, schema: Any, root: Mapping[str, Any]) -> str:
        return self.param_text.format(name)
