"""Calls whose arguments are JSON text: passed through as the model writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from quince.text.tool_parsers.scan import Marks, Reader, Reading, drop

NAME_KEYS = ("name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters")
ID_KEYS = ("id", "tool_call_id")

_UNFINISHED_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$")


def arguments(reader: Reader, closing: Marks) -> Reading[None]:
    """The arguments of a call that has begun and its closing mark. What is not JSON is passed on up to that mark."""
    yield from reader.space()
    first = yield from reader.peek()
    if first in ("{", "[") and (yield from reader.json_value(reader.out.arguments)):
        yield from reader.space()
        yield from reader.literal(*closing.all)
        return
    mark = yield from reader.until(closing, reader.out.arguments)
    if mark:
        reader.out.end_call()


class CallObject:
    """``{"name": "f", "arguments": {...}}``, as Hermes and many others write it.

    ``parameters`` may stand for ``arguments``, arguments may be missing, null or JSON text in a string, and the name
    may come after them. ``certain`` says of a name whether it alone makes the object a call (else its arguments do).
    """

    def __init__(
        self, reader: Reader, closing: Marks, *, certain: Callable[[str], bool] | None = None, ids: bool = False
    ) -> None:
        self._reader = reader
        self._closing = closing
        self._certain = certain or bool
        self._ids = ids
        self._name = ""
        self._id: str | None = None
        self._begun = False
        self._given = False
        self._early: list[str] | None = None

    def read(self) -> Reading[bool]:
        """True if it is a call: then it has begun, and ended as far as the model ended it."""
        whole = yield from self._members()
        if self._begun and (whole or (yield from self._reader.until(self._closing, drop))):
            self._reader.out.end_call()
        return self._begun

    def _members(self) -> Reading[bool]:
        reader = self._reader
        yield from reader.literal("{")
        while True:
            yield from reader.space()
            if (yield from reader.literal(",")):
                continue
            if (yield from reader.literal("}")):
                return True
            key = _string((yield from reader.json_text()))
            if key is None:
                return False
            yield from reader.space()
            if not (yield from reader.literal(":")):
                return False
            yield from reader.space()
            if not (yield from self._member(key)):
                return False

    def _member(self, key: str) -> Reading[bool]:
        if key in NAME_KEYS and not self._name:
            name = _string((yield from self._reader.json_text()))
            if not name:
                return False
            self._name = name
            if self._early is not None or self._certain(name):
                self._begin()
            return True
        if key in ID_KEYS and self._ids:
            self._id = _string((yield from self._reader.json_text()))
            return self._id is not None
        if key in ARGUMENT_KEYS and not self._given:
            return (yield from self._arguments())
        return (yield from self._reader.json_value(drop))

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        self._reader.begin(self._name, self._id)
        for piece in self._early or []:
            self._reader.out.arguments(piece)

    def _arguments(self) -> Reading[bool]:
        self._given = True
        if self._name:
            self._begin()
        pieces: list[str] = []
        sink = self._reader.out.arguments if self._begun else pieces.append
        first = yield from self._reader.peek()
        if first == "{" or first == "[":
            whole = yield from self._reader.json_value(sink)
            if not whole and self._begun:
                yield from self._broken()
                return False
        else:
            raw: list[str] = []
            whole = yield from self._reader.json_value(raw.append)
            sink(_scalar("".join(raw)))
        if not self._begun:
            self._early = pieces
        return whole

    def _broken(self) -> Reading[None]:
        """Not JSON any more: what stands there up to the call's end, without the bracket that closes the call."""
        rest: list[str] = []
        mark = yield from self._reader.until(self._closing, rest.append)
        if mark:
            self._reader.unread(mark)
        self._reader.out.arguments("".join(rest).rstrip().removesuffix("}"))


def call_list(reader: Reader, closing: Marks, *, ids: bool = False) -> Reading[bool]:
    """``[{"name": ...}, ...]``: True if there was a call. Consumes the bracket that closes it, and ``closing``."""
    yield from reader.literal("[")
    yield from reader.space()
    calls = 0
    while (yield from reader.peek()) == "{":
        if not (yield from CallObject(reader, closing, ids=ids).read()):
            break
        calls += 1
        yield from reader.space()
        yield from reader.literal(",")
        yield from reader.space()
    if calls:
        yield from reader.literal("]")
        yield from reader.space()
        yield from reader.literal(*closing.all)
    return calls > 0


def _string(text: str | None) -> str | None:
    """What a JSON string says; None if this is none."""
    if text is None or not text.startswith('"'):
        return None
    try:
        said = str(json.loads(text, strict=False))
    except ValueError:
        return None
    # Half of a surrogate pair is no character and could not be sent.
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _scalar(text: str) -> str:
    """Arguments that are no object: JSON text in a string (perhaps cut), null, or whatever else."""
    if text == "null":
        return ""
    if not text.startswith('"'):
        return text
    closed = text if _string(text) is not None else _UNFINISHED_ESCAPE.sub(r"\1", text) + '"'
    said = _string(closed)
    return text if said is None else said
