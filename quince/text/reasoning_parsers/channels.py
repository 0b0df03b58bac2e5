"""Answers that are several messages, each with a header that says what it is: gpt-oss (harmony) and Muse.

The prompt ends where a message's header begins. Messages to a tool are left as they are, header included, for the tool
parser. A message that follows another of its kind begins on a line of its own.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from enum import Enum

from quince.text.reasoning_parsers.base import ReasoningFormat
from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.harmony import CHANNEL, ENDS, MARKERS, MAX_HEADER, MESSAGE, START, recipient
from quince.text.tool_parsers.scan import Margin, Marks, Reader, Reading

_CHANNEL_NAME = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_SELF = " to=self"


class Kind(Enum):
    REASONING = "reasoning"
    CONTENT = "content"
    TOOL = "tool"


class ChannelFormat(ReasoningFormat):
    """``headers`` begin a header, ``ends`` end a message."""

    headers: tuple[str, ...]
    ends: tuple[str, ...]

    @abstractmethod
    def kind(self, header: str) -> Kind:
        """What the message with this header is."""

    def opened(self, prompt_tail: str) -> bool:
        return prompt_tail.endswith(MESSAGE) and self.kind(prompt_tail.rpartition(START)[2]) is Kind.REASONING

    def closed(self, prompt_tail: str) -> bool:
        return prompt_tail.endswith(MESSAGE) and not self.opened(prompt_tail)

    def read(self, reader: Reader, opened: bool) -> Reading[None]:
        said: set[Kind] = set()
        if opened:
            yield from self._body(reader, Kind.REASONING, said)
        marks = Marks(*self.headers)
        while mark := (yield from reader.until(marks, reader.out.text)):
            header = yield from self._header(reader, mark)
            if header is not None:
                yield from self._message(reader, header, said)

    def _header(self, reader: Reader, mark: str) -> Reading[str | None]:
        """The header that ``mark`` begins, with ``<|message|>``. One that is cut off is nothing if it began with a
        special token; what is too long for a header, or ends without a message, is text."""
        reader.hold()
        pieces: list[str] = []
        end = yield from reader.until(Marks(MESSAGE, START, *self.ends), pieces.append, MAX_HEADER)
        header = "".join(pieces)
        if end == MESSAGE:
            reader.release()
            return mark + header + MESSAGE
        if end or len(header) > MAX_HEADER or mark not in (START, CHANNEL):
            reader.rewind()
            reader.out.text(mark)
        return None

    def _message(self, reader: Reader, header: str, said: set[Kind]) -> Reading[None]:
        kind = self.kind(header)
        if kind is Kind.TOOL:
            reader.out.text(self._for_tools(header))
        yield from self._body(reader, kind, said)

    def _for_tools(self, header: str) -> str:
        return header

    def _body(self, reader: Reader, kind: Kind, said: set[Kind]) -> Reading[None]:
        out = reader.out
        if kind is Kind.REASONING:
            if kind in said:
                out.reasoning("\n")
            sink = Margin(out.reasoning, drop=True)
            mark = yield from reader.until(Marks(*self.ends, START, CHANNEL), sink)
        else:
            if kind is Kind.CONTENT and kind in said:
                out.text("\n")
            mark = yield from reader.until(Marks(*self.ends, START, CHANNEL), out.text)
        said.add(kind)
        if mark in (START, CHANNEL):
            reader.unread(mark)
        elif kind is Kind.TOOL:
            out.text(self._tool_end(mark))

    def _tool_end(self, mark: str) -> str:
        return mark


class HarmonyChannels(ChannelFormat):
    """gpt-oss: ``<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>``.

    Analysis is reasoning, final and commentary without a recipient are content.
    """

    name = "harmony"
    aliases = ("gpt_oss",)
    markers = MARKERS
    headers = (START, CHANNEL)
    ends = ENDS
    end_text = f"<|end|>{START}assistant{CHANNEL}final{MESSAGE}"

    def matches(self, template: str) -> bool:
        return CHANNEL in template and "analysis" in template

    def kind(self, header: str) -> Kind:
        if recipient(header) is not None:
            return Kind.TOOL
        channel = _CHANNEL_NAME.search(header)
        return Kind.REASONING if channel is not None and channel[1] == "analysis" else Kind.CONTENT

    def _prefix(self, rules: Rules, opened: bool, content: bool) -> str:
        thought = f"{rules.text_before('<|end|>')} {rules.literal(f'{START}assistant')}"
        before = thought if opened else f"({rules.literal(f'{CHANNEL}analysis{MESSAGE}')} {thought})?"
        return f"{before} {rules.literal(f'{CHANNEL}final{MESSAGE}') if content else ''}"


class MuseMessages(ChannelFormat):
    """Muse Spark and Muse Glimmer: ``to=self<|message|>...<|eom|><|start|>assistant to=user<|message|>...<|eot|>``.

    What it says to itself is reasoning, to the user or as commentary content; any other recipient is a tool, and its
    message a call that needs no header.
    """

    name = "muse_spark"
    aliases = ("atem",)
    ends = ("<|eom|>", "<|eot|>")
    markers = (START, MESSAGE, *ends)
    headers = (START, " to=", "to=")
    end_text = f"<|eom|>{START}assistant to=user{MESSAGE}"

    def matches(self, template: str) -> bool:
        return "<atem:function_calls>" in template and MESSAGE in template

    def kind(self, header: str) -> Kind:
        found = re.search(r"to=([^\s<]+)", header)
        if found is None or found[1] in ("user", "commentary"):
            return Kind.CONTENT
        return Kind.REASONING if found[1] == "self" else Kind.TOOL

    def _for_tools(self, header: str) -> str:
        return ""

    def _tool_end(self, mark: str) -> str:
        return ""

    def _prefix(self, rules: Rules, opened: bool, content: bool) -> str:
        thought = f"{rules.text_before('<|eom|>')} {rules.literal(f'{START}assistant')}"
        before = thought if opened else f"({rules.literal(f'{_SELF}{MESSAGE}')} {thought})?"
        return f"{before} {rules.literal(f' to=user{MESSAGE}') if content else ''}"
