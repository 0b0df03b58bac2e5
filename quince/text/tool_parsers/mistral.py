"""``[TOOL_CALLS]``, then calls up to the end of the answer. Mistral.

Up to the v7 tokenizer a list of objects, ``[TOOL_CALLS] [{"name": "f", "arguments": {...}}]``; from v11 on
``[TOOL_CALLS]f[ARGS]{...}`` for each call, Mistral Small 3.2 with ``[CALL_ID]id`` before ``[ARGS]``. The templates take
ids of nine letters and digits only.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.hermes import object_call
from quince.text.tool_parsers.json_calls import CallObject, arguments, call_list
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked

_CALLS, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NAME = re.compile(r"[\w.\-/:]*")
_ID_TEXT = re.compile(r"[\w\-]*")
_MAX_NAME = 256
_ID_LENGTH = 9


class Mistral(ToolFormat):
    """``[ARGS]`` in the template tells the newer form from the older: the parser reads both, a grammar writes one."""

    markers = (_CALLS, _ARGS, _ID)

    def __init__(self, name: str, *, listed: bool) -> None:
        self.name = name
        self._listed = listed
        if listed:
            self.opening, self.between, self.closing = f"{_CALLS}[", ", ", "]"

    def matches(self, template: str) -> bool:
        return _CALLS in template and (_ARGS in template) != self._listed

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        closing = Marks(_CALLS)

        def call(_mark: str) -> Reading[bool]:
            yield from reader.space()
            first = yield from reader.peek()
            if first == "[":
                return (yield from call_list(reader, Marks(), ids=True))
            if first == "{":
                return (yield from CallObject(reader, Marks(), ids=True).read())
            return (yield from named())

        def named() -> Reading[bool]:
            """One call and those that follow without a mark of their own."""
            calls = 0
            while heading := (yield from _heading(reader, first=calls == 0)):
                reader.begin(*heading)
                yield from arguments(reader, Marks())
                calls += 1
                yield from reader.space()
                reader.hold()
            if calls:
                reader.rewind()
            return calls > 0

        yield from marked(reader, closing, call)

    def call(self, rules: Rules, tool: Tool) -> str:
        if self._listed:
            return object_call(rules, tool)
        return f"{rules.literal(f'{_CALLS}{tool.name}{_ARGS}')} {rules.arguments(tool.parameters)}"

    def new_id(self, name: str, index: int) -> str:
        return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(_ID_LENGTH))


def _heading(reader: Reader, *, first: bool) -> Reading[tuple[str, str | None] | None]:
    """A call's name and id. A brace ends the name too, where the mark makes it certain that there is one."""
    name = yield from reader.run(_NAME, _MAX_NAME)
    if not name:
        return None
    yield from reader.space()
    call_id: str | None = None
    if (yield from reader.literal(_ID)):
        call_id = (yield from reader.run(_ID_TEXT, _MAX_NAME)) or None
    if (yield from reader.literal(_ARGS)) or (first and (yield from reader.peek()) == "{"):
        return name, call_id
    return None


MISTRAL_LIST = Mistral("mistral_list", listed=True)
MISTRAL = Mistral("mistral", listed=False)
