"""``<|tool_call_start|>[f(a=1, b='x'), g()]<|tool_call_end|>``: calls as a list in Python. LFM2 and LFM2.5.

LFM2's templates write strings between quotes without escaping what is in them, and JSON's names where Python has its
own: both are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.literals import Literal
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked
from quince.text.tool_parsers.schema import quote

_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(r"[\w.\-/:]*")
_KEY = re.compile(r"\w*")
MAX_NAME = 256


def read_calls(reader: Reader, known: Callable[[str], bool], closing: str = "") -> Reading[bool]:
    """A list of calls, or one call without a list. False, and nothing has begun, if the first is no call to a name
    that is ``known``. A call that breaks off takes everything up to ``closing`` with it, as it is written."""
    yield from reader.literal("[")
    calls = 0
    while True:
        yield from reader.space()
        if not (yield from _begins(reader, known, calls)):
            break
        calls += 1
        if not (yield from _arguments(reader)):
            yield from reader.until(Marks(closing), reader.out.arguments)
            return True
        yield from reader.space()
        yield from reader.literal(",")
    if calls:
        yield from reader.literal("]")
    return calls > 0


def _begins(reader: Reader, known: Callable[[str], bool], calls: int) -> Reading[bool]:
    if calls:
        reader.hold()
    name = yield from reader.run(_NAME, MAX_NAME)
    if name and known(name) and (yield from reader.literal("(")):
        reader.begin(name)
        return True
    if calls:
        reader.rewind()
    return False


def _arguments(reader: Reader) -> Reading[bool]:
    """``a=1, b='x')``, as one JSON object; False if it is something else."""
    out, members = reader.out, 0
    yield from reader.space()
    while not (yield from reader.literal(")")):
        key = yield from reader.run(_KEY)
        yield from reader.space()
        if not key or not (yield from reader.literal("=")):
            out.arguments(key)
            return False
        out.arguments(("{" if members == 0 else ", ") + f"{quote(key)}: ")
        members += 1
        yield from reader.space()
        if not (yield from Literal(reader, out.arguments).read()):
            return False
        yield from reader.space()
        if not (yield from reader.literal(",")) and (yield from reader.peek()) != ")":
            return False
        yield from reader.space()
    if members:
        out.arguments("}")
    out.end_call()
    return True


class Pythonic(ToolFormat):
    name = "pythonic"
    aliases = ("lfm2",)
    markers = (_START, _END)
    opening = f"{_START}["
    between = ", "
    closing = f"]{_END}"

    def matches(self, template: str) -> bool:
        return _START in template or "<|tool_list_start|>" in template

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        def call(_mark: str) -> Reading[bool]:
            yield from reader.space()
            called = yield from read_calls(reader, bool, _END)
            if called:
                yield from reader.space()
                yield from reader.literal(_END)
            return called

        yield from marked(reader, Marks(_START), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        def member(name: str, schema: Any, root: Any) -> str:
            return f"{rules.literal(f'{name}=')} {rules.json(schema, root)}"

        parameters = rules.parameters(tool.parameters, member, ", ")
        return f"{rules.literal(f'{tool.name}(')} {parameters} {rules.literal(')')}"
