"""Text of others on a terminal: nothing in it can move the cursor, change colours or write to the clipboard."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from typing import TextIO

_PICTURES = 0x2400  # the visible signs for the control characters 0 to 31 begin here
_DELETE_PICTURE = "\u2421"
# They make a line look other than it is, until its end.
_BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def neutralise(text: str) -> str:
    """``text`` with control characters made visible. Line feeds and tabs stay; carriage returns are left out."""
    if text.isprintable() and text.isascii():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    if character == "\r":
        return ""
    code = ord(character)
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return _DELETE_PICTURE
    # Cc: also the one-byte control characters above 127. Cs: halves of pairs, which nothing can write.
    hidden = character in _BIDI_OVERRIDES or unicodedata.category(character) in ("Cc", "Cs")
    return "\ufffd" if hidden else character


def has_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") not in (None, "", "dumb")


class AnswerWriter:
    """Writes one answer as it comes. To a terminal: harmless, with the thinking dim; elsewhere the answer as it is."""

    def __init__(self, stream: TextIO, *, colours: bool) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._colours = colours
        self._thinking = False
        self._last = "\n"

    def write(self, text: str) -> None:
        self._switch(thinking=False)
        self._put(text)

    def think(self, text: str) -> None:
        """Thinking is for who watches: it is no part of an answer that a program reads."""
        if self._terminal:
            self._switch(thinking=True)
            self._put(text)

    def end(self) -> None:
        """Also of an answer that was cut: the next line starts plain and at its beginning."""
        self._switch(thinking=False)
        if self._last != "\n":
            self._put("\n")

    def _switch(self, *, thinking: bool) -> None:
        if thinking == self._thinking:
            return
        self._thinking = thinking
        if thinking:
            self._stream.write(_DIM if self._colours else "(thinking) ")
            return
        if self._colours:
            self._stream.write(_PLAIN)
        self._put("\n" if self._last == "\n" else "\n\n")

    def _put(self, text: str) -> None:
        if text:
            shown = neutralise(text) if self._terminal else text
            self._stream.write(shown)
            self._stream.flush()
            self._last = shown[-1:] or self._last
