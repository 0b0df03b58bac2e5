"""Values written as Python or Gemma writes them, turned into JSON as they come.

Python: ``{'a': True, "b": [1, None], 'c': (1, 2)}``, with JSON's own names tolerated. Gemma: bare keys and strings
between marks, ``{a:<|"|>text<|"|>,n:1}``. One reading serves both; it goes token by token, so that nesting needs no
recursion.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence

from quince.text.tool_parsers.scan import Marks, Reader, Reading, Sink

_KEY = re.compile(r"[^\s,:{}\[\]()\"'<=]*")
_BARE = re.compile(r"[^,{}\[\]()\"'<]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_NAMES = {"true": "true", "True": "true", "false": "false", "False": "false"}
_NAMES |= {"null": "null", "None": "null", "none": "null"}
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": ""}
_ESCAPE_SIZE = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]*")


def escape(text: str) -> str:
    """Text as it stands between the quotes of a JSON string. Text and its pieces give the same."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class Literal:
    """One value as JSON text. ``quotes`` are marks that stand on both sides of a string that has no escapes."""

    def __init__(self, reader: Reader, sink: Sink, quotes: Sequence[str] = ()) -> None:
        self._reader = reader
        self._sink = sink
        self._quotes = {quote: Marks(quote) for quote in quotes}
        self._open: list[str] = []
        self._comma = False

    def read(self) -> Reading[bool]:
        """False if the value ends, or cannot go on, before it is whole."""
        while True:
            yield from self._reader.space()
            if not (yield from self._closed()):
                if not (yield from self._key()):
                    return False
                if (yield from self._opened()):
                    continue
                if not (yield from self._string()) and not (yield from self._bare()):
                    return False
            if not self._open:
                return True
            if not (yield from self._after_value()):
                return False

    def _closed(self) -> Reading[bool]:
        if not self._open or not (yield from self._reader.literal(self._open[-1])):
            return False
        self._comma = False
        self._sink(self._open.pop().replace(")", "]"))
        return True

    def _opened(self) -> Reading[bool]:
        opening = yield from self._reader.literal(*_CLOSING)
        if opening:
            self._open.append(_CLOSING[opening])
            self._sink(opening.replace("(", "["))
        return bool(opening)

    def _after_value(self) -> Reading[bool]:
        """A comma, or the bracket that closes (not consumed): else what was read is broken."""
        yield from self._reader.space()
        self._comma = bool((yield from self._reader.literal(",")))
        return self._comma or (yield from self._reader.peek()) == self._open[-1]

    def _key(self) -> Reading[bool]:
        """What stands before a value: the comma, which no closing bracket follows, and in an object the key."""
        if self._comma:
            self._sink(", ")
            self._comma = False
        if not self._open or self._open[-1] != "}":
            return True
        if not (yield from self._string()):
            key = yield from self._reader.run(_KEY)
            if not key:
                return False
            self._sink(f'"{escape(key)}"')
        yield from self._reader.space()
        if not (yield from self._reader.literal(":")):
            return False
        self._sink(": ")
        yield from self._reader.space()
        return True

    def _bare(self) -> Reading[bool]:
        text = (yield from self._reader.run(_BARE)).rstrip()
        if not text:
            return False
        self._sink(_NAMES.get(text) or (text if _NUMBER.fullmatch(text) else f'"{escape(text)}"'))
        return True

    def _string(self) -> Reading[bool]:
        quote = yield from self._reader.literal(*self._quotes, '"', "'")
        if not quote:
            return False
        self._sink('"')
        marks = self._quotes.get(quote)
        if marks is None:
            whole = yield from self._quoted(quote)
        else:
            whole = bool((yield from self._reader.until(marks, lambda text: self._sink(escape(text)))))
        if whole:
            self._sink('"')
        return whole

    def _quoted(self, quote: str) -> Reading[bool]:
        marks = Marks(quote, "\\")
        while mark := (yield from self._reader.until(marks, lambda text: self._sink(escape(text)))):
            if mark == "\\":
                yield from self._escaped()
            elif (yield from self._closes()):
                return True
            else:
                self._sink(escape(quote))
        return False

    def _closes(self) -> Reading[bool]:
        """A quote closes its string if what may follow a string follows. Some templates write strings as they are,
        with the quotes that are in them."""
        self._reader.hold()
        yield from self._reader.space()
        follows = yield from self._reader.peek()
        self._reader.rewind()
        return follows == "" or follows in ",:)]}"

    def _escaped(self) -> Reading[None]:
        kind = yield from self._reader.peek()
        if kind == "":
            return
        yield from self._reader.literal(kind)
        if kind in _ESCAPE_SIZE:
            yield from self._code(kind)
        elif kind in _SIMPLE:
            self._sink(escape(_SIMPLE[kind]))
        elif kind in "\"'\\/":
            self._sink(escape(kind))
        else:
            self._sink(escape("\\" + kind))

    def _code(self, kind: str) -> Reading[None]:
        digits = ""
        while len(digits) < _ESCAPE_SIZE[kind]:
            digit = yield from self._reader.peek()
            if not digit or not _HEX.fullmatch(digit):
                self._sink(escape(f"\\{kind}{digits}"))
                return
            yield from self._reader.literal(digit)
            digits += digit
        if kind == "u":  # as JSON writes it: also the halves of a pair
            self._sink(f"\\u{digits}")
        else:
            character = chr(int(digits, 16)) if int(digits, 16) <= sys.maxunicode else f"\\{kind}{digits}"
            self._sink(json.dumps(character)[1:-1])


def literal_to_json(text: str) -> str | None:
    """A whole value; None if it is none."""
    reader = Reader()
    reader.feed(text)
    reader.ended = True
    pieces: list[str] = []

    def read() -> Reading[None]:
        whole = yield from Literal(reader, pieces.append).read()
        if not whole or (yield from reader.peek()):
            pieces.clear()

    next(read(), None)
    return "".join(pieces) or None
