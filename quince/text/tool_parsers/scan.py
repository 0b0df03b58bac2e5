"""Reading an answer that comes in pieces as if it were all there.

A parser is written as straight-line code, a generator (``Reading``) over a ``Reader``: ``yield`` means "not enough text
yet". ``Scanned`` runs it: every push resumes it, flush tells it that no more will come. What a reading decides depends
on the text alone, never on where a piece ends: so the whole parser gives the same deltas for every way of cutting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from quince.text.events import Delta, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart

T = TypeVar("T")
Reading = Generator[None, None, T]
Sink = Callable[[str], object]

_SPACE = re.compile(r"\s*")
_SCALAR = re.compile(r"[\w+\-.]*")
_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\s0-9A-Za-z+\-.,:]*")
_CLOSING = {"{": "}", "[": "]"}


def drop(_text: str) -> None:
    """The sink for what nobody wants."""


class Events:
    """The deltas of one answer, neighbours of one kind joined."""

    def __init__(self) -> None:
        self._deltas: list[Delta] = []
        self._calls = 0
        self._ids: set[str] = set()
        self._has_arguments = False

    def text(self, text: str) -> None:
        if text:
            self._add(TextDelta(text))

    def reasoning(self, text: str) -> None:
        if text:
            self._add(ReasoningDelta(text))

    def call(self, name: str, call_id: str | None = None) -> None:
        """An id that the answer has used already is left out: ids are unique."""
        if call_id in self._ids:
            call_id = None
        if call_id is not None:
            self._ids.add(call_id)
        self._deltas.append(ToolCallStart(self._calls, name, call_id))
        self._calls += 1
        self._has_arguments = False

    def arguments(self, text: str) -> None:
        if text:
            self._has_arguments = True
            self._add(ToolCallDelta(self._calls - 1, text))

    def end_call(self) -> None:
        """The call is complete: one that gave no arguments has none."""
        if not self._has_arguments:
            self.arguments("{}")

    def take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _add(self, delta: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
        last = self._deltas[-1] if self._deltas else None
        match last, delta:
            case TextDelta(), TextDelta():
                self._deltas[-1] = TextDelta(last.text + delta.text)
            case ReasoningDelta(), ReasoningDelta():
                self._deltas[-1] = ReasoningDelta(last.text + delta.text)
            case ToolCallDelta(), ToolCallDelta():
                self._deltas[-1] = ToolCallDelta(last.index, last.arguments + delta.arguments)
            case _:
                self._deltas.append(delta)


class Margin:
    """Passes text on without the space at its end, until more text follows it. ``drop`` forgets that space, and the
    space that comes next."""

    def __init__(self, sink: Sink, *, drop: bool = False) -> None:
        self._sink = sink
        self._space: list[str] = []
        self._dropping = drop

    def __call__(self, text: str) -> None:
        if self._dropping:
            text = text.lstrip()
            if not text:
                return
            self._dropping = False
        body = text.rstrip()
        if body:
            self._sink("".join([*self._space, body]))
            self._space.clear()
        if len(body) < len(text):
            self._space.append(text[len(body) :])

    def drop(self) -> None:
        self._space.clear()
        self._dropping = True

    def release(self) -> None:
        if self._space:
            self._sink("".join(self._space))
            self._space.clear()


class Marks:
    """Strings to be found in text. The one that begins first wins, the longest of several that begin at one place."""

    def __init__(self, *marks: str) -> None:
        self.all = tuple(sorted(set(filter(None, marks)), key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self.all)) or r"(?!)")
        self._longest = max(map(len, self.all), default=1)

    def find(self, text: str, at: int, ended: bool) -> tuple[int, str]:
        """The first mark from ``at`` on and its place; without one, "" and the place up to which none can begin."""
        open_at = len(text) if ended else self._unfinished(text, at)
        found = self._pattern.search(text, at)
        if found is None or found.start() >= open_at:
            return open_at, ""
        return found.start(), found.group()

    def _unfinished(self, text: str, at: int) -> int:
        for start in range(max(at, len(text) - self._longest + 1), len(text)):
            tail = text[start:]
            if any(len(tail) < len(mark) and mark.startswith(tail) for mark in self.all):
                return start
        return len(text)


class Reader:
    """The text that no reading has consumed yet, and the events that come of it.

    ``hold`` remembers a place: until ``begin`` or ``release``, ``rewind`` goes back to it. Text is otherwise kept only
    as long as a mark may be unfinished in it, so that a push costs no more when the answer is long.
    """

    def __init__(self) -> None:
        self.out = Events()
        # The answer's text around calls: the space beside a call is not content.
        self.prose = Margin(self.out.text)
        self.ended = False
        self._text = ""
        self._at = 0
        self._held: list[str] | None = None
        self._held_from = 0

    def feed(self, text: str) -> None:
        if self._held is not None:
            self._held.append(self._text[self._held_from : self._at])
        self._text = self._text[self._at :] + text
        self._at = self._held_from = 0

    def hold(self) -> None:
        self._held = []
        self._held_from = self._at

    def release(self) -> None:
        self._held = None

    def rewind(self) -> None:
        if self._held:
            self._text = "".join([*self._held, self._text[self._held_from :]])
            self._at = 0
        elif self._held is not None:
            self._at = self._held_from
        self._held = None

    def unread(self, mark: str) -> None:
        """Give back the mark that was read last."""
        self._at -= len(mark)

    def begin(self, name: str, call_id: str | None = None) -> None:
        """A call's name is certain."""
        self.release()
        self.prose.drop()
        self.out.call(name, call_id)

    def peek(self) -> Reading[str]:
        """The next character; "" at the end of the answer."""
        while self._at == len(self._text) and not self.ended:
            yield
        return self._text[self._at : self._at + 1]

    def space(self) -> Reading[str]:
        return (yield from self.run(_SPACE))

    def run(self, pattern: re.Pattern[str], limit: int | None = None) -> Reading[str]:
        """All that follows of the kind of character that ``pattern`` (``[...]*``) stands for. Past ``limit``
        characters it gives up and returns ""."""
        pieces: list[str] = []
        size = 0
        while True:
            end = _end(pattern, self._text, self._at)
            pieces.append(self._text[self._at : end])
            size += end - self._at
            self._at = end
            if limit is not None and size > limit:
                return ""
            if end < len(self._text) or self.ended:
                return "".join(pieces)
            yield

    def literal(self, *options: str) -> Reading[str]:
        """The longest of ``options`` that follows, consumed; "" if none does."""
        while True:
            rest = self._text[self._at : self._at + max(map(len, options), default=0)]
            if self.ended or not any(len(rest) < len(option) and option.startswith(rest) for option in options):
                found = max((option for option in options if rest.startswith(option)), key=len, default="")
                self._at += len(found)
                return found
            yield

    def until(self, marks: Marks, sink: Sink, limit: int | None = None) -> Reading[str]:
        """Pass text to ``sink`` up to the first of ``marks``, which is consumed; "" if the answer ends before, or if
        it passed more than ``limit`` characters (how many more depends on the pieces that the text came in)."""
        passed = 0
        while True:
            end, mark = marks.find(self._text, self._at, self.ended)
            if end > self._at:
                sink(self._text[self._at : end])
            passed += end - self._at
            self._at = end + len(mark)
            if limit is not None and passed > limit:
                return ""
            if mark or self.ended:
                return mark
            yield

    def json_value(self, sink: Sink) -> Reading[bool]:
        """Pass one JSON value to ``sink`` as it is written; False if it ends, or cannot go on, before it is whole.

        It is read as loosely as one can and still find its end: brackets match, strings are closed.
        """
        first = yield from self.peek()
        if first in '{["' and first:
            return (yield from _Nested(self, sink).read())
        scalar = yield from self.run(_SCALAR)
        if scalar:
            sink(scalar)
        return bool(scalar)

    def json_text(self) -> Reading[str | None]:
        """One JSON value's text; None if it is not whole."""
        pieces: list[str] = []
        whole = yield from self.json_value(pieces.append)
        return "".join(pieces) if whole else None

    def pass_structure(self, pattern: re.Pattern[str], sink: Sink) -> Reading[str]:
        """Pass what ``pattern`` matches, then consume and return the one character after it; "" at the end."""
        while True:
            end = _end(pattern, self._text, self._at)
            if end > self._at:
                sink(self._text[self._at : end])
            self._at = end
            if end < len(self._text):
                self._at += 1
                return self._text[end]
            if self.ended:
                return ""
            yield


class _Nested:
    """Finds the end of an object, an array or a string."""

    def __init__(self, reader: Reader, sink: Sink) -> None:
        self._reader = reader
        self._sink = sink
        self._open: list[str] = []

    def read(self) -> Reading[bool]:
        while True:
            mark = yield from self._reader.pass_structure(_BETWEEN, self._sink)
            if not self._belongs(mark):
                self._reader.unread(mark)
                return False
            self._sink(mark)
            if mark == '"' and not (yield from self._string()):
                return False
            if not self._open:
                return True

    def _belongs(self, mark: str) -> bool:
        if mark in _CLOSING:
            self._open.append(_CLOSING[mark])
            return True
        return mark == '"' or (bool(self._open) and mark != "" and self._open.pop() == mark)

    def _string(self) -> Reading[bool]:
        while True:
            mark = yield from self._reader.pass_structure(_STRING, self._sink)
            self._sink(mark)
            if mark != "\\":
                return mark == '"'
            self._sink((yield from self._reader.pass_structure(_NOTHING, drop)))


_NOTHING = re.compile("")


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


class Scanned:
    """A Parser that is a reading."""

    def __init__(self, reading: Callable[[Reader], Reading[None]]) -> None:
        self._reader = Reader()
        self._reading = reading(self._reader)

    def push(self, text: str) -> list[Delta]:
        self._reader.feed(text)
        next(self._reading, None)
        return self._reader.out.take()

    def flush(self) -> list[Delta]:
        self._reader.ended = True
        next(self._reading, None)
        self._reader.prose.release()
        return self._reader.out.take()


def marked(
    reader: Reader, openings: Marks, call: Callable[[str], Reading[bool]], text: Sink | None = None
) -> Reading[None]:
    """Text with calls in it: ``call`` reads on after an opening mark and says whether it was a call after all. It has
    called ``begin`` if so; if not, the mark and what follows it is text."""
    while mark := (yield from reader.until(openings, text or reader.prose)):
        reader.hold()
        if not (yield from call(mark)):
            reader.rewind()
            (text or reader.prose)(mark)
