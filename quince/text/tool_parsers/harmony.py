"""gpt-oss: a call is a message to a recipient.

    <|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>

The recipient may stand before the channel instead (``<|start|>assistant to=functions.f<|channel|>commentary``). The
message ends with ``<|call|>``, which also ends the answer. The other messages are the reasoning parser's: it leaves
messages to a recipient as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from quince.text.tool_parsers.base import Tool, ToolFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.json_calls import arguments
from quince.text.tool_parsers.scan import Marks, Reader, Reading, marked

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
MAX_HEADER = 512

_HEADER_END = Marks(MESSAGE, START, *ENDS)
_RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
_PEOPLE = frozenset({"user", "assistant", "all"})


def header(reader: Reader) -> Reading[str | None]:
    """A message's header, ``<|message|>`` behind it consumed; None if there is no message."""
    pieces: list[str] = []
    mark = yield from reader.until(_HEADER_END, pieces.append, MAX_HEADER)
    return "".join(pieces) if mark == MESSAGE else None


def recipient(text: str) -> str | None:
    """Whom a header names, unless it is a person."""
    found = _RECIPIENT.search(text)
    return None if found is None or found[1] in _PEOPLE else found[1]


class Harmony(ToolFormat):
    name = "harmony"
    aliases = ("gpt_oss",)
    markers = MARKERS
    several = False

    def matches(self, template: str) -> bool:
        return CHANNEL in template and "commentary" in template

    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        closing = Marks(*ENDS)

        def call(_mark: str) -> Reading[bool]:
            text = yield from header(reader)
            name = recipient(text) if text is not None else None
            if name is None:
                return False
            reader.begin(name.removeprefix("functions.") or name)
            yield from arguments(reader, closing)
            return True

        yield from marked(reader, Marks(START, CHANNEL), call)

    def call(self, rules: Rules, tool: Tool) -> str:
        head = f"{CHANNEL}commentary to=functions.{tool.name} {CONSTRAIN}json{MESSAGE}"
        return f"{rules.literal(head)} {rules.arguments(tool.parameters)}"
