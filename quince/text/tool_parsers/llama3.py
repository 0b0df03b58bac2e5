"""Llama 3.1 to 3.3 and Llama 4: a bare object, ``{"name": "f", "parameters": {...}}``, that is the whole answer.

``<|python_tag|>`` (Llama 3) may stand before it, ``<|python_start|>`` and ``<|python_end|>`` (Llama 4) around it, ``;``
or a newline between several. Llama 3.1 learned ``<function=f>{...}</function>`` too, Llama 4 pythonic ``[f(a=1)]``.
An answer may begin with a bracket and be no call: an object is one only with a name that the request knows or with
parameters, a list only with a name that the request knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.hermes import object_call
from quince.text.tool_parsers.json_calls import CallObject, arguments
from quince.text.tool_parsers.pythonic import read_calls
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked
from quince.text.tool_parsers.tagged import plain

_TAGS = ("<|python_tag|>", "<|python_start|>")
_END = "<|python_end|>"
_FUNCTION = ("<function=", "</function>")


class Llama3(ToolFormat):
    name = "llama3"
    aliases = ("llama4",)
    markers = (*_TAGS, _END)
    between = "; "

    def matches(self, template: str) -> bool:
        return any(tag in template for tag in _TAGS) or (
            '"parameters": ' in template and "<|start_header_id|>" in template and "tools" in template
        )

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        names = frozenset(tool.name for tool in tools)

        def bare() -> Reading[bool]:
            reader.hold()
            yield from reader.space()
            first = yield from reader.peek()
            called = False
            if first == "{":
                called = yield from CallObject(reader, Marks(_END, *_TAGS), certain=names.__contains__).read()
            elif first == "[":
                called = yield from read_calls(reader, names.__contains__)
            if not called:
                reader.rewind()
            return called

        def call(mark: str) -> Reading[bool]:
            if mark == _FUNCTION[0]:
                return (yield from self._function(reader))
            return (yield from several(bare))

        def several(one: object) -> Reading[bool]:
            if not (yield from bare()):
                return False
            while (yield from self._separated(reader)) and (yield from bare()):
                pass
            yield from reader.literal(_END)
            return True

        yield from several(bare)
        yield from marked(reader, Marks(*_TAGS, _FUNCTION[0]), call)

    def _separated(self, reader: Reader) -> Reading[bool]:
        """Another bare call may follow the one before."""
        yield from reader.space()
        if (yield from reader.literal(";")):
            yield from reader.space()
        return (yield from reader.peek()) in ("{", "[")

    def _function(self, reader: Reader) -> Reading[bool]:
        heading = yield from plain(">")(reader)
        if heading is None:
            return False
        reader.begin(heading.name)
        yield from arguments(reader, Marks(_FUNCTION[1]))
        return True

    def call(self, rules: Rules, tool: Tool) -> str:
        return object_call(rules, tool, "parameters")
