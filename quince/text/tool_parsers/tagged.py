"""Calls whose parameters are tags with a raw value each: Qwen3-Coder, GLM, MiniMax, Kimi K3 and their relatives.

``Tags`` says how a family spells it; ``TaggedCalls`` reads all of them. A parameter that can only be a string streams
as it comes; any other value is turned into JSON, by its schema, when it is complete.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quince.text.tool_parsers.base import Tool
from quince.text.tool_parsers.json_calls import CallObject, arguments
from quince.text.tool_parsers.literals import escape
from quince.text.tool_parsers.scan import Marks, Reader, Reading, Sink, drop, marked
from quince.text.tool_parsers.schema import Schema, is_text, properties_of, quote, to_json

MAX_HEADER = 256

_PLAIN = re.compile(r"[^\s<>{}\"']*")
_HEADER = re.compile(r"[^<>\n]*")
_ATTRIBUTE = re.compile(r"""([\w:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")


@dataclass(frozen=True)
class Header:
    """A call's or a parameter's name, with what else its tag says: Kimi K3 gives a value's type."""

    name: str
    type: str | None = None


Heading = Callable[[Reader], Reading[Header | None]]


@dataclass(frozen=True)
class Tags:
    """A family's spelling.

    ``section`` stands around one or several calls. A call is ``call[0]``, what ``call_heading`` reads, parameters,
    ``call[1]``; a parameter is ``param[0]``, what ``param_heading`` reads, its value, ``param[1]``. ``verbatim``: no
    newline stands between a value and its tags. ``json_block`` stands around arguments that are one JSON object.
    """

    section: tuple[str, str]
    call: tuple[str, str]
    param: tuple[str, str]
    call_heading: Heading
    param_heading: Heading
    verbatim: bool = True
    json_block: tuple[str, str] | None = None
    cdata: bool = False

    @property
    def openings(self) -> Marks:
        return Marks(self.section[0], self.call[0])


def plain(end: str = "") -> Heading:
    """A name up to ``end``, as in ``<function=name>``. Without an end the name is what has no space in it."""

    def read(reader: Reader) -> Reading[Header | None]:
        yield from reader.space()
        name = yield from reader.run(_PLAIN, MAX_HEADER)
        if not name:
            return None
        yield from reader.space()
        return Header(name) if not end or (yield from reader.literal(end)) else None

    return read


def attributes(key: str, end: str = ">") -> Heading:
    """A name in an attribute, as in ``<invoke name="name">``; an attribute ``type`` is read too."""

    def read(reader: Reader) -> Reading[Header | None]:
        text = yield from reader.run(_HEADER, MAX_HEADER)
        if not text or not (yield from reader.literal(end)):
            return None
        found = {name: html.unescape(a or b or c) for name, a, b, c in _ATTRIBUTE.findall(text)}
        return Header(found[key], found.get("type")) if found.get(key) else None

    return read


def element(end: str, then: str) -> Heading:
    """A name that is an element's text, followed by another element: ``name</arg_key>\\n<arg_value>``."""
    marks = Marks(end)

    def read(reader: Reader) -> Reading[Header | None]:
        pieces: list[str] = []
        if not (yield from reader.until(marks, pieces.append, MAX_HEADER)):
            return None
        yield from reader.space()
        name = "".join(pieces).strip()
        return Header(name) if name and (yield from reader.literal(then)) else None

    return read


class _Object:
    """Writes the arguments, member by member."""

    def __init__(self, reader: Reader) -> None:
        self._out = reader.out
        self._members = 0

    def key(self, name: str) -> None:
        self._out.arguments(("{" if self._members == 0 else ", ") + f"{quote(name)}: ")
        self._members += 1

    def value(self, text: str) -> None:
        self._out.arguments(text)

    def end(self) -> None:
        if self._members:
            self._out.arguments("}")
        self._out.end_call()


@dataclass
class _Newlines:
    """Leaves out one newline at the beginning and one at the end of a value."""

    sink: Sink
    _held: str = field(default="", init=False)
    _begun: bool = field(default=False, init=False)

    def __call__(self, text: str) -> None:
        if not self._begun and text:
            self._begun = True
            text = text.removeprefix("\n")
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        self.sink(text.removesuffix("\n"))


class TaggedCalls:
    """Reads one answer's calls."""

    def __init__(self, tags: Tags, tools: Sequence[Tool], reader: Reader) -> None:
        self._tags = tags
        self._reader = reader
        self._parameters = {tool.name: tool.parameters for tool in tools}
        self._section_end = tags.section[1] or tags.call[1]
        blocks = [tags.json_block[0]] if tags.json_block else []
        self._inside = Marks(tags.param[0], tags.call[1], tags.section[1], tags.section[0], tags.call[0], *blocks)

    def read(self) -> Reading[None]:
        yield from marked(self._reader, self._tags.openings, self._opened)

    def _opened(self, mark: str) -> Reading[bool]:
        called = (yield from self._section()) if mark == self._tags.section[0] else (yield from self._call())
        if called:
            yield from self._reader.space()
            yield from self._reader.literal(self._section_end)
        return called

    def _section(self) -> Reading[bool]:
        reader = self._reader
        yield from reader.space()
        if (yield from reader.peek()) == "{":
            return (yield from CallObject(reader, Marks(self._tags.section[1] or self._tags.call[1])).read())
        if self._tags.call[0] and not (yield from reader.literal(self._tags.call[0])):
            return False
        return (yield from self._call())

    def _call(self) -> Reading[bool]:
        heading = yield from self._tags.call_heading(self._reader)
        if heading is None or not (yield from self._goes_on()):
            return False
        self._reader.begin(heading.name)
        if (yield from self._reader.peek()) == "{":
            yield from arguments(self._reader, Marks(self._tags.call[1]))
            return True
        yield from self._body(self._parameters.get(heading.name, {}))
        return True

    def _goes_on(self) -> Reading[bool]:
        """A name whose end is no mark is one if a call goes on behind it."""
        if self._tags.call[0]:
            return True
        reader = self._reader
        if (yield from reader.peek()) == "{":
            return True
        mark = yield from reader.literal(self._tags.param[0], self._tags.call[1])
        reader.unread(mark)
        return bool(mark)

    def _body(self, root: Schema) -> Reading[None]:
        tags, reader = self._tags, self._reader
        members = _Object(reader)
        while mark := (yield from reader.until(self._inside, drop)):
            if mark == tags.param[0]:
                if not (yield from self._parameter(members, root)):
                    return
            elif tags.json_block and mark == tags.json_block[0]:
                yield from self._json_block(tags.json_block[1])
                return
            else:
                members.end()
                if mark != tags.call[1]:
                    reader.unread(mark)
                return

    def _json_block(self, end: str) -> Reading[None]:
        yield from arguments(self._reader, Marks(end))
        yield from self._reader.space()
        yield from self._reader.literal(self._tags.call[1])

    def _parameter(self, members: _Object, root: Schema) -> Reading[bool]:
        """False if the answer ended in it."""
        heading = yield from self._tags.param_heading(self._reader)
        if heading is None:
            return True
        schema = _schema(heading, root)
        members.key(heading.name)
        text = is_text(schema, root)
        if text:
            members.value('"')
        pieces: list[str] = []
        whole = yield from self._value((lambda piece: members.value(escape(piece))) if text else pieces.append)
        if whole:
            members.value('"' if text else to_json("".join(pieces), schema, root))
        return whole

    def _value(self, sink: Sink) -> Reading[bool]:
        marks = Marks(self._tags.param[1])
        if self._tags.cdata and (yield from self._reader.literal("<![CDATA[")):
            if not (yield from self._reader.until(Marks("]]>"), sink)):
                return False
            return bool((yield from self._reader.until(marks, drop)))
        return bool((yield from self._reader.until(marks, sink if self._tags.verbatim else _Newlines(sink))))


def _schema(heading: Header, root: Schema) -> Mapping[str, object]:
    """A value's schema. A type that the tag gives wins where it says whether the value is a string."""
    schema = properties_of(root).get(heading.name)
    if heading.type == "string":
        return {"type": "string"}
    if heading.type is not None and is_text(schema, root):
        return {}
    return schema if isinstance(schema, Mapping) else {}
